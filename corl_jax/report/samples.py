"""The part of the report that is samples: pictures, answers, sheets of a run. In: parsed JSON and files; out: HTML."""

from __future__ import annotations

import base64
import pathlib
import re
from collections.abc import Mapping
from html import escape
from typing import Any

SHEETS = 12
"""Sample sheets shown, at most; evenly spread over the run."""
SIDES = ("before", "after")


def pictures(galleries: Mapping[str, Any]) -> str:
    """Prompts with the pictures before and after, side by side."""
    sides = [side for side in SIDES if side in galleries]
    rows = [galleries[side]["prompts"] for side in sides]
    out = '<div class="soft small">prompt</div>'
    for side in SIDES:
        out += f'<div class="soft small">{side if side in sides else ""}</div>'
    for group in zip(*rows, strict=True):
        out += f'<div class="rule"></div><div>{escape(group[0]["prompt"])}</div>'
        shown = dict(zip(sides, group, strict=True))
        for side in SIDES:
            drawn = shown[side]["pictures"] if side in shown else []
            four = "".join(_picture(one, group[0]["prompt"]) for one in drawn)
            out += f'<div class="four" data-side="{side if drawn else ""}">{four}</div>'
    guidance = galleries[sides[0]]["guidance"]
    return (
        f'<p class="soft">Held-out prompts, not chosen by hand; pictures are samples at temperature 1, guidance '
        f"{guidance:g}. A green frame and tick mean that it shows exactly what was asked for and nothing else.</p>"
        f'<div class="card scroll"><div class="draw">{out}</div></div>'
    )


def _picture(picture: Mapping[str, Any], prompt: str) -> str:
    tick = "<span>&#10003;</span>" if picture["right"] else ""
    look = "pic right" if picture["right"] else "pic"
    return f'<div class="{look}">{image(picture["png"], prompt)}{tick}</div>'


def answers(transcripts: Mapping[str, Any]) -> str:
    """Questions with picture, reference, and what was answered before and after."""
    sides = [side for side in SIDES if side in transcripts]
    cards = ""
    for group in zip(*(transcripts[side] for side in sides), strict=True):
        asked = group[0]
        said = ""
        for side, one in zip(sides, group, strict=True):
            for how in ("greedy", "sampled"):
                said += _said(f"{side}, {how}", one[how])
        question, _, options = escape(asked["question"]).partition("\n")
        options = f'<p class="small">{options.replace(chr(10), " &emsp; ")}</p>' if options else ""
        cards += (
            f'<div class="card talk">{image(asked["png"], "picture of the question")}<div><h3>{question}</h3>{options}'
            f'<p class="soft small">{escape(asked["kind"])} &middot; right: <b>{escape(asked["reference"])}</b></p>'
            f'<div class="say">{said}</div></div></div>'
        )
    return f'<div class="grid talks">{cards}</div>'


def _said(who: str, answer: Mapping[str, Any]) -> str:
    mark = (
        '<span class="ok">&#10003;</span>'
        if answer["right"]
        else '<span class="no">&#10007;</span>'
    )
    text = re.sub(r"(&lt;/?\w+&gt;)", r'<span class="tag">\1</span>', escape(answer["text"]))
    form = "" if answer["well_formed"] else ' <span class="tag">(out of form)</span>'
    return (
        f'<span class="soft small">{who}</span>{mark}<span>{text or "<i>nothing</i>"}{form}</span>'
    )


def sheets(folder: pathlib.Path) -> str:
    """Sample sheets that were written while training, as a strip to scroll."""
    found = sorted(folder.glob("step_*.png"))
    if len(found) > SHEETS:
        found = [found[round(i * (len(found) - 1) / (SHEETS - 1))] for i in range(SHEETS)]
    figures = ""
    for path in found:
        step, _, name = path.stem.removeprefix("step_").partition("_")
        caption = escape(f"step {int(step)}: {name}" if step.isdigit() else path.stem)
        png = base64.b64encode(path.read_bytes()).decode()
        figures += f"<figure>{image(png, caption)}<figcaption>{caption}</figcaption></figure>"
    return f'<div class="card"><div class="sheets">{figures}</div></div>' if figures else ""


def image(png: str, text: str) -> str:
    """An ``img`` element with its picture inside; nothing but base64 gets in."""
    if re.fullmatch(r"[A-Za-z0-9+/=]*", png) is None:
        raise ValueError("a picture of the work directory is no base64")
    return f'<img loading="lazy" src="data:image/png;base64,{png}" alt="{escape(text)}">'


def empty(what: str) -> str:
    """Says that a part is missing."""
    return f'<p class="empty">{escape(what)}</p>'
