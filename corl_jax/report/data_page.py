"""The page of a prepared set: what its rows are like, which were left out and why, and pictures."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from corl_jax import __version__
from corl_jax.data.prepared.picture_facts import THUMBNAIL_SIDE
from corl_jax.data.prepared.prepare import PreparedSplit
from corl_jax.data.prepared.summary import DUPLICATE, REJECTED
from corl_jax.engine.image_grid import image_grid
from corl_jax.report.rendering import render
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
    return render(
        "data.html",
        title="Prepared data",
        version=__version__,
        set_facts=facts,
        splits=[_describe_split(split) for split in splits],
    )


def contact_sheet(split: PreparedSplit) -> bytes | None:
    """Pictures from all over the split with their prompts, as JPEG; None if it has none."""
    thumbnails = _thumbnails(split)
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


def _thumbnails(split: PreparedSplit) -> list[tuple[str, str]]:
    """Prompts and small pictures from all over the split."""
    return [pair for block in split.blocks for pair in block.thumbnails]


def _describe_split(split: PreparedSplit) -> dict[str, Any]:
    """What the page shows of one split."""
    summary = split.summary
    # Reasons first: they are what a reader came for.
    names = [REJECTED, DUPLICATE, *sorted(summary.values.keys() - {REJECTED, DUPLICATE})]
    return {
        "name": split.name,
        "kept": split.kept,
        "rows": split.rows,
        "rejected": summary.count(REJECTED),
        "duplicates": summary.count(DUPLICATE),
        "tables": {name: _tabulate(summary.values[name]) for name in names if summary.values[name]},
        "histograms": {
            name: _draw_histogram(split.name, name, counts)
            for name, counts in sorted(summary.numbers.items())
        },
        "sheet": SHEET_FILE.format(split=split.name) if _thumbnails(split) else None,
    }


def _tabulate(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent values, and how many others there are."""
    rows = [(value[:200], number) for value, number in counts.most_common(MOST_VALUES)]
    if (others := len(counts) - MOST_VALUES) > 0:
        rest = counts.total() - sum(number for _, number in rows)
        rows.append((f"{others:,} others", rest))
    return rows


def _draw_histogram(split: str, name: str, counts: Counter[int]) -> dict[str, Any]:
    """How often numbers are, with their smallest, middle and largest."""
    values = sorted(counts)
    cumulated = np.cumsum([counts[value] for value in values])
    median = values[int(np.searchsorted(cumulated, cumulated[-1] / 2))]

    def plot(axes: Axes) -> None:
        weights = [counts[value] for value in values]
        axes.hist(values, bins=min(BINS, len(values)), weights=weights, color=PALETTE[0])
        add_grid(axes, "y")

    note = f"from {values[0]:,} to {values[-1]:,}, median {median:,}"
    return {"svg": draw_svg(f"{split} {name}", 1.9, plot), "note": note}
