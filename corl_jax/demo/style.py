"""The look of the page: light and dark by Gradio's variables, narrow and wide."""

from __future__ import annotations

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# .drawn holds pictures with buttons, .watched parts of a run, .answers what a policy wrote.
CSS = """
.gradio-container{padding:0!important}
.main.app{max-width:1280px!important;margin:0 auto!important;padding:14px 28px!important}
.html-container{padding:0!important}
.top h1{font-size:26px;margin:4px 0 0;letter-spacing:-.02em}
.top p{margin:0}
h2{font-size:19px;margin:22px 0 0}h3{font-size:16px;margin:14px 0 2px}
h4{font-size:15px;margin:0 0 4px;white-space:pre-line}
.soft{color:var(--body-text-color-subdued);font-size:14px;margin:0 0 8px}
.status p{margin:0!important;padding:8px 12px;border-radius:8px;border-left:4px solid transparent;
overflow-wrap:anywhere}
.status .busy{border-color:var(--color-accent);background:var(--background-fill-secondary)}
.status .done{padding-left:0;font-weight:600}
.status .hint{padding-left:0;color:var(--body-text-color-subdued)}
.problem{border-left:4px solid #d92d20!important;background:var(--background-fill-secondary);
padding:8px 12px;border-radius:8px;margin:6px 0;overflow-wrap:anywhere}
.pictures{list-style:none;margin:6px 0;padding:0;display:grid;gap:14px;
grid-template-columns:repeat(auto-fill,minmax(140px,1fr))}
.pictures li{margin:0}.pictures figure{margin:0}
.pictures img,.question img{width:100%;aspect-ratio:1;object-fit:contain;border-radius:10px;
border:1px solid var(--border-color-primary);display:block}
.drawn .pictures{grid-template-columns:repeat(auto-fill,minmax(118px,1fr))}
img.coarse{image-rendering:pixelated}
.drawn figcaption{display:flex;align-items:stretch;gap:6px;margin-top:6px}
.drawn button{margin:0!important;font:inherit;font-size:14px;min-height:36px;padding:4px 8px;border-radius:8px;
border:1px solid var(--border-color-primary);background:var(--button-secondary-background-fill);
color:var(--button-secondary-text-color);cursor:pointer;flex:1}
.drawn .sheet button{flex:none}
.drawn button:hover{background:var(--button-secondary-background-fill-hover)}
.picture-input img{image-rendering:pixelated;object-fit:contain;width:100%;height:100%}
.answer,.group,.chart{border:1px solid var(--border-color-primary);border-radius:12px;
padding:14px;margin:10px 0;background:var(--block-background-fill);overflow-wrap:anywhere}
.several{display:grid;gap:10px;margin-top:10px;
grid-template-columns:repeat(auto-fit,minmax(min(270px,100%),1fr))}
.several .answer{margin:0}
.answer h3{margin-top:0}
.thinking{border-left:3px solid var(--border-color-primary);padding-left:12px;margin:8px 0;
color:var(--body-text-color-subdued)}
.final{margin:8px 0}.final p{font-size:19px;font-weight:600}
.thinking p,.final p{margin:0;white-space:pre-line}
.tag{font-size:12px;text-transform:uppercase;letter-spacing:.05em;
color:var(--body-text-color-subdued)}
.group .final p{font-size:16px}
details{margin-top:6px}summary{cursor:pointer;font-size:13px;color:var(--body-text-color-subdued);
padding:4px 0}
pre{white-space:pre-wrap;font-size:13px;background:var(--background-fill-secondary);padding:10px;
border-radius:8px;margin:4px 0}
.question{display:grid;grid-template-columns:96px 1fr;gap:14px;align-items:start}
.scores{display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 0;font-size:13px;
font-variant-numeric:tabular-nums}
.pictures .scores{display:block}
.scores div{display:flex;gap:5px;justify-content:space-between}
.scores dt{color:var(--body-text-color-subdued)}.scores dd{margin:0}
.up{color:#12805c;font-weight:600}.down{color:#b4322e;font-weight:600}
.dark .up{color:#5fd3a3}.dark .down{color:#ff938c}
.charts{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr))}
.chart{margin:0}.chart figcaption{font-weight:600;margin-bottom:6px}
.chart svg{width:100%;height:auto;display:block}.chart svg text{font-family:inherit!important}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:4px 10px 4px 0;white-space:nowrap}td.num{text-align:right}
.whole{margin:8px 0}.whole img{max-width:none;height:auto;max-height:80vh;border-radius:8px}
.run-choice{align-items:end}
:focus-visible,button:focus-visible,input:focus-visible,textarea:focus-visible,
summary:focus-visible,[role=tab]:focus-visible{outline:3px solid var(--color-accent)!important;
outline-offset:2px!important}
@media(max-width:600px){.pictures,.drawn .pictures{grid-template-columns:1fr 1fr}
.main.app{padding:8px 12px!important}.question{grid-template-columns:72px 1fr}}
@media(prefers-reduced-motion:reduce){*{animation:none!important;transition:none!important}}
"""
