"""Pictures of a card as PNG: curves of the metrics, and samples before and after the run."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from corl_jax.data.image_files import load_image
from corl_jax.report.charts import make_panels, plot_panel
from corl_jax.report.samples import SIDES

PANELS = (
    "Reward", "Distance from the base (KL)", "Length of answers", "Entropy",
    "Negative log-likelihood", "Reconstruction", "Loss",
)  # fmt: skip
"""Titles of the charts of a card, the most important ones first."""
MOST_PANELS, MOST_PROMPTS = 4, 6
CELL, GAP, NUMBER_WIDTH, HEAD = 96, 4, 22, 16
"""Pixels: a side of a picture on the sheet, between two, for the number of a row, for a heading."""
RIGHT = (46, 160, 67)
INK, PAPER = (60, 60, 70), (255, 255, 255)


def draw_curves(rows: Sequence[Mapping[str, float]]) -> bytes | None:
    """Up to four charts in two columns; None where there is nothing to draw.

    Args:
      rows: of ``metrics.jsonl``, NaN for null.
    """
    columns = {name for row in rows for name, value in row.items() if math.isfinite(value)}
    by_title = {panel.title: panel for panel in make_panels(sorted(columns))[0]}
    panels = [by_title[title] for title in PANELS if title in by_title][:MOST_PANELS]
    if not panels:
        return None

    width, height = min(2, len(panels)), math.ceil(len(panels) / 2)
    figure = Figure(figsize=(4.4 * width, 2.6 * height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for position, panel in enumerate(panels, 1):
        axes = figure.add_subplot(height, width, position)
        plot_panel(axes, panel, rows)
        axes.set_title(panel.title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    # Without the name of the program the same run gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_samples(galleries: Mapping[str, Any]) -> tuple[bytes | None, tuple[str, ...]]:
    """A sheet with one row per prompt, before the run at the left and after it at the right.

    Args:
      galleries: content of ``gallery_SIDE.json`` by side; one side may be missing.

    Returns:
      The sheet, None without galleries, and the prompts of its rows.
    """
    sides = [side for side in SIDES if side in galleries]
    if not sides:
        return None, ()
    by_side = [galleries[side]["prompts"][:MOST_PROMPTS] for side in sides]
    prompts = tuple(entry["prompt"] for entry in by_side[0])
    most = max((len(e["pictures"]) for entries in by_side for e in entries), default=0)
    if not prompts or not most:
        return None, ()

    block = most * (CELL + GAP) + 4 * GAP
    size = (NUMBER_WIDTH + len(sides) * block, HEAD + len(prompts) * (CELL + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (side, entries) in enumerate(zip(sides, by_side, strict=True)):
        left = NUMBER_WIDTH + column * block
        pen.text((left, 1), side, INK)
        for row, entry in enumerate(entries):
            top = HEAD + row * (CELL + GAP)
            if column == 0:
                pen.text((4, top + CELL // 2 - 6), str(row + 1), INK)
            for place, picture in enumerate(entry["pictures"]):
                _paste(sheet, pen, picture, left + place * (CELL + GAP), top)

    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    return buffer.getvalue(), prompts


def _paste(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, picture: Mapping[str, Any], left: int, top: int
) -> None:
    """One picture in its cell, with a green frame if it is known to be right."""
    pixels = load_image(base64.b64decode(picture["png"]), "a picture of the run's gallery")
    image = Image.fromarray(np.asarray(pixels))
    # Small pictures of the embedded world keep their pixels, photographs are smoothed.
    smooth = max(image.size) > CELL
    way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    sheet.paste(image.resize((CELL, CELL), way), (left, top))
    if picture.get("right"):
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=RIGHT, width=3)
