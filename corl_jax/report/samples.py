"""Samples of a run as HTML: galleries and answers before and after it, and sheets from training."""

from __future__ import annotations

import base64
import pathlib
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax.core.checks.paths import check_inside

SHEETS = 12
"""Most sample sheets that are shown; they are evenly spread over the run."""
SIDES = ("before", "after")
RIGHT_LEGEND = (
    "A green frame and tick mean that it shows exactly what was asked for and nothing else."
)
REWARD_LEGEND = "The number below a picture is its total reward."


def render_images(galleries: Mapping[str, Any]) -> str:
    """Prompts with their images before and after the run, next to each other.

    Args:
      galleries: content of ``gallery_SIDE.json`` by side; one side may be missing.

    Returns:
      HTML, or "" if both are missing.
    """
    sides = [side for side in SIDES if side in galleries]
    if not sides:
        return ""

    prompts_by_side = [galleries[side]["prompts"] for side in sides]

    # The first row of the grid: headings of its three columns.
    cells = '<div class="soft small">prompt</div>'
    for side in SIDES:
        cells += f'<div class="soft small">{side if side in sides else ""}</div>'

    # Both sides have the same prompts in the same order.
    for entries in zip(*prompts_by_side, strict=True):
        prompt = entries[0]["prompt"]
        cells += f'<div class="rule"></div><div>{escape(prompt)}</div>'
        entry_by_side = dict(zip(sides, entries, strict=True))
        # A side that is missing keeps its column, so that the grid stays aligned.
        for side in SIDES:
            pictures = entry_by_side[side]["pictures"] if side in entry_by_side else []
            images = "".join(_picture(picture, prompt) for picture in pictures)
            cells += f'<div class="four" data-side="{side if pictures else ""}">{images}</div>'

    has_rewards = any(
        "reward" in picture
        for prompts in prompts_by_side
        for entry in prompts
        for picture in entry["pictures"]
    )
    legend = REWARD_LEGEND if has_rewards else RIGHT_LEGEND

    # Both sides were sampled with the guidance scale of training.
    guidance = galleries[sides[0]]["guidance"]
    return (
        '<p class="soft">Held-out prompts, not chosen by hand; pictures are samples at '
        f"temperature 1, guidance {guidance:g}. {legend}</p>"
        f'<div class="card scroll"><div class="draw">{cells}</div></div>'
    )


def _picture(picture: Mapping[str, Any], prompt: str) -> str:
    """One image, with its reward below it, or a frame and a tick if it is correct."""
    if "reward" in picture:
        reward = f'<div class="soft small">{picture["reward"]:.2f}</div>'
        return f'<div class="pic">{image_tag(picture["png"], prompt)}{reward}</div>'
    tick = "<span>&#10003;</span>" if picture["right"] else ""
    look = "pic right" if picture["right"] else "pic"
    return f'<div class="{look}">{image_tag(picture["png"], prompt)}{tick}</div>'


def render_answers(transcripts: Mapping[str, Any]) -> str:
    """Questions with their image, the reference answer, and the answers before and after the run.

    Args:
      transcripts: content of ``answers_SIDE.json`` by side; one side may be missing.

    Returns:
      HTML, or "" if both are missing.
    """
    sides = [side for side in SIDES if side in transcripts]
    if not sides:
        return ""

    # One card per question, with up to four answers: greedy and sampled, before and after.
    cards = ""
    for entries in zip(*(transcripts[side] for side in sides), strict=True):
        answers = ""
        for side, entry in zip(sides, entries, strict=True):
            for decoding in ("greedy", "sampled"):
                answers += _answer(f"{side}, {decoding}", entry[decoding])

        # The question is the same on both sides. Its options follow on lines of their own.
        entry = entries[0]
        question, _, options = escape(entry["question"]).partition("\n")
        options = f'<p class="small">{options.replace(chr(10), " &emsp; ")}</p>' if options else ""

        cards += (
            f'<div class="card talk">{image_tag(entry["png"], "picture of the question")}'
            f"<div><h3>{question}</h3>{options}"
            f'<p class="soft small">{escape(entry["kind"])} &middot; '
            f"right: <b>{escape(entry['reference'])}</b></p>"
            f'<div class="say">{answers}</div></div></div>'
        )
    return f'<div class="grid talks">{cards}</div>'


def _answer(label: str, answer: Mapping[str, Any]) -> str:
    """One answer: who gave it, whether it is correct, and its text with the tags set apart."""
    mark = (
        '<span class="ok">&#10003;</span>'
        if answer["right"]
        else '<span class="no">&#10007;</span>'
    )
    # The text is escaped first, so a tag such as <think> reads &lt;think&gt; by now.
    text = re.sub(r"(&lt;/?\w+&gt;)", r'<span class="tag">\1</span>', escape(answer["text"]))
    note = "" if answer["well_formed"] else ' <span class="tag">(malformed)</span>'
    return (
        f'<span class="soft small">{label}</span>{mark}'
        f"<span>{text or '<i>nothing</i>'}{note}</span>"
    )


def render_sheets(folder: pathlib.Path) -> str:
    """Sample sheets that were written in training, as a strip to scroll; "" if there are none.

    Args:
      folder: the work directory.

    Raises:
      UserError: a sheet is a link to a file outside of it.
    """
    paths = sorted((folder / "samples").glob("step_*.png"))
    if len(paths) > SHEETS:
        # The first and the last sheet are always among them.
        paths = [paths[round(i * (len(paths) - 1) / (SHEETS - 1))] for i in range(SHEETS)]

    figures = ""
    for path in paths:
        check_inside(path, folder)
        # step_000025_rollout.png
        step, _, name = path.stem.removeprefix("step_").partition("_")
        caption = escape(f"step {int(step)}: {name}" if step.isdigit() else path.stem)
        png = base64.b64encode(path.read_bytes()).decode()
        figures += f"<figure>{image_tag(png, caption)}<figcaption>{caption}</figcaption></figure>"
    return f'<div class="card"><div class="sheets">{figures}</div></div>' if figures else ""


def image_tag(png: str, text: str) -> str:
    """An ``img`` element that contains its image.

    Args:
      png: PNG file in base64.
      text: shown where the image is not.

    Raises:
      ValueError: ``png`` is not base64; nothing else may get into the attribute.
    """
    # Base64 contains no quotation mark or angle bracket, so this is as safe as escaping.
    if re.fullmatch(r"[A-Za-z0-9+/=]*", png) is None:
        raise ValueError("an image in the work directory is not base64")
    return f'<img loading="lazy" src="data:image/png;base64,{png}" alt="{escape(text)}">'


def placeholder(text: str) -> str:
    """A box that says which part is missing."""
    return f'<p class="empty">{escape(text)}</p>'
