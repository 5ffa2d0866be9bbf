"""The page of a prepared set: what its rows are like, which were left out and why, and pictures."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from corl_jax import __version__
from corl_jax.data.prepared.picture_facts import THUMBNAIL_SIDE
from corl_jax.data.prepared.prepare import PreparedSplit
from corl_jax.data.prepared.summary import DUPLICATE, REJECTED
from corl_jax.engine.image_grid import image_grid
from corl_jax.report.style import CSS
from corl_jax.report.svg import PALETTE, add_grid, draw_svg

PAGE_FILE, SHEET_FILE = "statistics.html", "pictures-{split}.jpg"
MOST_VALUES = 12
"""Most rows of a table."""
COLUMNS = 8
"""Pictures in a row of the contact sheet."""
BINS = 40
"""Bars of a histogram."""


def render_data_page(splits: Sequence[PreparedSplit], facts: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
      splits: of the set.
      facts: what it was made of, name to text.
    """
    entries = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()
    )
    parts = [
        "<h1>Prepared data</h1>",
        f'<p class="soft">Written by corl_jax {escape(__version__)}.</p>',
        f'<div class="card small"><dl>{entries}</dl></div>',
        *(_render_split(split) for split in splits),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Prepared data</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def contact_sheet(split: PreparedSplit) -> bytes | None:
    """Pictures from all over the split with their prompts, as JPEG; None if it has none."""
    thumbnails = [pair for block in split.blocks for pair in block.thumbnails]
    if not thumbnails:
        return None

    # Pictures keep their shape; the grid has cells of one size.
    cells = np.full((len(thumbnails), THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), 255, np.uint8)
    for cell, (_, jpeg) in zip(cells, thumbnails, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(jpeg))) as image:
            pixels = np.asarray(image.convert("RGB"))
        cell[: pixels.shape[0], : pixels.shape[1]] = pixels
    sheet = image_grid(cells, [label for label, _ in thumbnails], COLUMNS)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _render_split(split: PreparedSplit) -> str:
    summary = split.summary
    rejected, duplicates = summary.count(REJECTED), summary.count(DUPLICATE)
    sections = [
        f"<h2>{escape(split.name)}</h2>",
        f"<p>{split.kept:,} of {split.rows:,} rows; {rejected:,} rejected and {duplicates:,} that "
        "repeat an earlier row. <code>rejected.jsonl</code> lists both.</p>",
    ]

    # Reasons first: they are what a reader came for.
    names = [REJECTED, DUPLICATE, *sorted(summary.values.keys() - {REJECTED, DUPLICATE})]
    tables = [_render_table(name, summary.values[name]) for name in names if summary.values[name]]
    charts = [_render_histogram(split.name, *item) for item in sorted(summary.numbers.items())]
    sections.append(f'<div class="grid charts">{"".join(tables + charts)}</div>')

    if contact_sheet(split) is not None:
        name = escape(SHEET_FILE.format(split=split.name))
        look = "image-rendering:auto;max-width:100%"
        sections.append(f'<p><img src="{name}" alt="pictures of the split" style="{look}"></p>')
    return "".join(sections)


def _render_table(name: str, counts: Counter[str]) -> str:
    """The most frequent values, and how many others there are."""
    rows = [
        f'<tr><td style="white-space:normal">{escape(value[:200])}</td>'
        f'<td class="num">{number:,}</td></tr>'
        for value, number in counts.most_common(MOST_VALUES)
    ]
    others = len(counts) - MOST_VALUES
    if others > 0:
        rest = counts.total() - sum(number for _, number in counts.most_common(MOST_VALUES))
        rows.append(f'<tr><td>{others:,} others</td><td class="num">{rest:,}</td></tr>')
    return f'<div class="card"><h3>{escape(name)}</h3><table>{"".join(rows)}</table></div>'


def _render_histogram(split: str, name: str, counts: Counter[int]) -> str:
    """How often numbers are, with their smallest, middle and largest."""
    values = sorted(counts)
    cumulated = np.cumsum([counts[value] for value in values])
    median = values[int(np.searchsorted(cumulated, cumulated[-1] / 2))]

    def plot(axes: Axes) -> None:
        weights = [counts[value] for value in values]
        axes.hist(values, bins=min(BINS, len(values)), weights=weights, color=PALETTE[0])
        add_grid(axes, "y")

    svg = draw_svg(f"{split} {name}", 1.9, plot)
    note = f"from {values[0]:,} to {values[-1]:,}, median {median:,}"
    return f'<div class="card"><h3>{escape(name)}</h3><p class="soft small">{note}</p>{svg}</div>'
