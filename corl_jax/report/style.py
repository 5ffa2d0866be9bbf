"""The look of the report: one style sheet, light and dark, narrow and wide."""

from __future__ import annotations

# Classes that are not named after what they are on other pages:
# .talk is a card with a question, .say its answers, .four the images of one side of a gallery,
# .pic one image, .pill a change, .span the line on which .before and .after are dots (i) that a
# bar (u) joins. On narrow screens the columns of the gallery become rows, labelled by data-side.
CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#647084;--line:#e1e5eb;
--before:#98a2b3;--after:#5b5bd6;--good:#12805c;--goodbg:#dff5ea;--bad:#b4322e;--badbg:#fbe5e3;
--code:#eef1f5}
@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2028;--ink:#e4e8ef;--soft:#98a3b5;
--line:#2d3440;--before:#7d8899;--after:#9a98ff;--good:#5fd3a3;--goodbg:#173a2d;--bad:#ff938c;
--badbg:#42211f;--code:#242b36}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 20px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.02em}
h2{font-size:20px;margin:46px 0 4px;letter-spacing:-.01em}
h3{font-size:15px;margin:0 0 6px}
p{margin:4px 0 14px;max-width:80ch}
.soft{color:var(--soft)}small,.small{font-size:13px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px}
.grid{display:grid;gap:14px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(190px,1fr));margin:22px 0 8px}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr))}
.talks{grid-template-columns:repeat(auto-fill,minmax(min(500px,100%),1fr))}
.tile b{display:block;font-size:30px;letter-spacing:-.02em;line-height:1.2;
font-variant-numeric:tabular-nums}
.tile .from{font-weight:400;color:var(--soft);font-size:19px}
.pill{display:inline-block;border-radius:99px;padding:1px 9px;font-size:13px;font-weight:600;
background:var(--code);white-space:nowrap;font-variant-numeric:tabular-nums}
.pill.up{background:var(--goodbg);color:var(--good)}
.pill.down{background:var(--badbg);color:var(--bad)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:600;text-align:left;font-size:13px;color:var(--soft)}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
td.num,th.num{text-align:right}tr:last-child td{border-bottom:0}
tr.head td{padding-top:18px;font-weight:600}
tr.main td:first-child{font-weight:600}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{background:var(--code);border-radius:5px;padding:1px 5px;overflow-wrap:anywhere}
pre{background:var(--code);border-radius:10px;padding:14px;overflow:auto;max-height:560px;
margin:10px 0 0}
.span{position:relative;display:block;width:150px;height:12px}
.span:before{content:"";position:absolute;left:0;right:0;top:5px;height:2px;background:var(--line)}
.span i{position:absolute;top:1px;width:10px;height:10px;margin-left:-5px;border-radius:50%}
.span u{position:absolute;top:5px;height:2px;background:var(--after);opacity:.55}
.before{background:var(--before)}.after{background:var(--after)}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin:0 5px 0 12px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}svg text{font-family:inherit!important}
img{image-rendering:pixelated;display:block}
.draw{display:grid;grid-template-columns:minmax(150px,1fr) auto auto;gap:10px 26px;
align-items:center}
.draw .rule{grid-column:1/-1;border-top:1px solid var(--line)}
.four{display:flex;gap:8px}
.pic{position:relative}.pic img{width:84px;height:84px;border-radius:8px;
outline:2px solid var(--line)}
.pic.right img{outline:3px solid var(--good)}
.pic span{position:absolute;right:-5px;bottom:-7px;width:19px;height:19px;border-radius:50%;
font-size:12px;line-height:19px;text-align:center;background:var(--good);color:var(--card);
font-weight:700}
.talk{display:grid;grid-template-columns:100px 1fr;gap:14px}
.talk>img{width:100px;height:100px;border-radius:8px;outline:1px solid var(--line)}
.talk h3,.talk p{margin:0 0 4px}
.say{display:grid;grid-template-columns:118px 20px 1fr;gap:3px 8px;font-size:14px;
align-items:baseline}
.say .tag{color:var(--soft);font-size:12px}.ok{color:var(--good);font-weight:700}
.no{color:var(--bad);font-weight:700}
.sheets{display:flex;gap:14px;overflow-x:auto;padding-bottom:8px}
.sheets figure{margin:0;flex:none}
.sheets img{height:330px;width:auto;border-radius:8px;outline:1px solid var(--line)}
figcaption{font-size:13px;color:var(--soft);margin-top:4px}
summary{cursor:pointer;font-weight:600;padding:4px 0}details{margin-top:14px}
.empty{border:1px dashed var(--line);border-radius:12px;padding:16px;color:var(--soft)}
@media(max-width:860px){.draw{grid-template-columns:1fr}
.draw>.small,td:nth-child(2),th:nth-child(2){display:none}
tr.head td{display:table-cell}.four{flex-wrap:wrap}
.four:before{content:attr(data-side);flex-basis:100%;font-size:12px;color:var(--soft)}
.talk{grid-template-columns:72px 1fr}
.talk>img{width:72px;height:72px}.pic img{width:68px;height:68px}
.say{grid-template-columns:96px 18px 1fr}}
"""
