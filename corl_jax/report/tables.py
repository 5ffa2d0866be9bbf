"""The part of the report that is numbers: tiles and the table before against after. In: ``eval.json``; out: HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax.evals.statistics import Number, Numbers, difference

TEXTS = {
    "qa_greedy": "right, greedy",
    "qa_greedy_mc": "right, greedy, multiple choice",
    "qa_greedy_oe": "right, greedy, open questions",
    "qa_sampled": "right, sampled",
    "qa_sampled_strict": "right and well-formed, sampled",
    "qa_format": "well-formed, sampled",
    "qa_greedy_format": "well-formed, greedy",
}


def tiles(evals: Mapping[str, Any]) -> str:
    """The numbers that a reader looks for first, before and after."""
    before, after = evals["before"], evals["after"]
    chosen: list[tuple[str, Number, Number]] = []
    if "guidance" in evals:
        name = f"t2i_strict@w={evals['guidance']:g}"
        best = best_guidance(before)
        if name in before and name in after:
            chosen.append(
                (
                    f"Pictures exactly right, guidance {evals['guidance']:g}",
                    before[name],
                    after[name],
                )
            )
            if best is not None and best != name:
                weight = best.partition("=")[2]
                chosen.append(
                    (f"The same, base at its best guidance {weight}", before[best], after[name])
                )
    for name, title in (
        ("qa_greedy", "Answers right, greedy"),
        ("qa_sampled_strict", "Answers right and well-formed, sampled"),
        ("qa_format", "Answers well-formed, sampled"),
    ):
        if name in before and name in after:
            chosen.append((title, before[name], after[name]))
    return f'<div class="grid tiles">{"".join(_tile(*one) for one in chosen)}</div>'


def best_guidance(numbers: Numbers) -> str | None:
    """The strict picture score of ``numbers`` that is highest, by name."""
    names = [name for name in numbers if name.startswith("t2i_strict@")]
    return max(names, key=lambda name: float(numbers[name]["value"] or 0)) if names else None


def table(evals: Mapping[str, Any]) -> str:
    """All numbers; one side may be missing while a run is under way."""
    nothing: Numbers = {}
    before, after = (
        dict(evals[side]) if side in evals else nothing for side in ("before", "after")
    )
    names = list(dict.fromkeys([*before, *after]))
    groups: dict[str, list[str]] = {
        "Pictures": [],
        "Answers": [],
        "Answers by kind of question": [],
    }
    for name in sorted(names, key=place):
        group = (
            "Pictures"
            if name.startswith("t2i")
            else "Answers by kind of question"
            if "/" in name
            else "Answers"
        )
        groups[group].append(name)
    main = f"t2i_strict@w={evals['guidance']:g}" if "guidance" in evals else ""
    body = ""
    for title, members in groups.items():
        if members:
            body += f'<tr class="head"><td colspan="7">{escape(title)}</td></tr>'
        body += "".join(
            _row(name, before, after, strong=name in (main, "qa_greedy")) for name in members
        )
    head = "<tr><th>measure</th><th></th><th class=num>before</th><th class=num>after</th><th></th>"
    head += "<th class=num>change</th><th class=num>records</th></tr>"
    key = '<i class="before"></i>before<i class="after"></i>after'
    return (
        f'<div class="card scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        f'<p class="soft small key">Mean over held-out records &plusmn; one standard error.{key} &emsp; '
        "A coloured change exceeds two standard errors of the difference (the two taken as independent).</p>"
    )


def place(name: str) -> tuple[int, str]:
    """Order of the table: pictures strict before soft, answers as in ``TEXTS``, the rest by name."""
    order = ("t2i_strict", "t2i_soft", *TEXTS)
    base = name.partition("@")[0]
    return (order.index(base) if base in order else len(order), name)


def _row(name: str, before: Numbers, after: Numbers, strong: bool) -> str:
    left, right = before.get(name), after.get(name)
    some = left or right
    change, dots = "", ""
    if left and right:
        change = _pill(left, right)
        a, b = (100 * min(max(float(one["value"] or 0), 0), 1) for one in (left, right))
        dots = f'<span class="span"><u style="left:{min(a, b):.1f}%;width:{abs(a - b):.1f}%"></u>'
        dots += f'<i class="before" style="left:{a:.1f}%"></i><i class="after" style="left:{b:.1f}%"></i></span>'
    cells = f"<td>{describe(name)}</td><td><code>{escape(name)}</code></td>"
    cells += f'<td class="num">{_share(left)}</td><td class="num">{_share(right)}</td>'
    cells += f'<td>{dots}</td><td class="num">{change}</td><td class="num">{some["n"] if some else ""}</td>'
    return f'<tr class="{"main" if strong else ""}">{cells}</tr>'


def describe(name: str) -> str:
    """A measure's name in words."""
    kind, _, weight = name.partition("@w=")
    if weight:
        return f"{'exactly right' if kind == 't2i_strict' else 'partial credit'}, guidance {escape(weight)}"
    base, _, question = name.partition("/")
    text = TEXTS[base] if base in TEXTS else escape(base)
    return f"{escape(question)}: {text}" if question else text


def _share(value: Number | None) -> str:
    if not value:
        return '<span class="soft">&ndash;</span>'
    error = (
        ""
        if value["stderr"] is None
        else f' <span class="soft">&plusmn; {100 * value["stderr"]:.1f}</span>'
    )
    return f"{100 * value['value']:.1f} %{error}"


def _pill(before: Number, after: Number) -> str:
    change, _, marked = difference(before, after)
    look = ("up" if change > 0 else "down") if marked else ""
    return f'<span class="pill {look}">{100 * change:+.1f}</span>'


def _tile(title: str, before: Number, after: Number) -> str:
    left, right = (f"{100 * one['value']:.1f}" for one in (before, after))
    return (
        f'<div class="card tile"><span class="soft small">{escape(title)}</span>'
        f'<b><span class="from">{left} &rarr;</span> {right} %</b>{_pill(before, after)}</div>'
    )
