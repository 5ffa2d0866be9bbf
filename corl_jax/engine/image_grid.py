"""A grid of captioned images, for people to look at.

In: uint8 images and a label for each. Out: one PIL image, which carries labels and places as JSON.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels around each cell; size of a letter; largest number of lines of a label.
MARGIN, FONT_SIZE, MAX_LINES = 8, 13, 6
LINE_HEIGHT = FONT_SIZE + 4
CELL_WIDTH = 96
"""Width in pixels that small images are magnified to; the factor is a whole number."""
CELLS = "cells"
"""Name of the text with labels and places, in ``info`` of the image."""


def magnification(width: int) -> int:
    """The ``scale`` for images of ``width`` pixels."""
    return max(1, CELL_WIDTH // width)


def image_grid(
    images: np.ndarray,
    labels: Sequence[str],
    columns: int,
    scale: int = 1,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Arranges images row by row on white, each with its label below.

    Args:
      images: uint8 ``[N, H, W, 3]``.
      labels: ``N`` captions. Line breaks are kept and long lines wrap; at most six lines are
        drawn.
      columns: images per row.
      scale: integer magnification, without smoothing.
      notes: a line below each label, such as a reward, for which there is always room; none where
        it is empty.

    Returns:
      one RGB image.

    Raises:
      ValueError: shapes, dtype or counts that do not fit together.
    """
    images = np.asarray(images)
    is_rgb = images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3
    if not is_rgb or not len(images):
        raise ValueError(
            f"images must be uint8 [N, H, W, 3]; got {images.dtype}{list(images.shape)}"
        )
    if len(labels) != len(images) or len(notes) not in (0, len(images)) or columns < 1 or scale < 1:
        raise ValueError(
            "images, labels and notes must be as many, columns and scale at least 1; got "
            f"{len(images)} images, {len(labels)} labels, {len(notes)} notes, {columns} columns, "
            f"scale {scale}"
        )

    # All cells have one size: that of the images, with room for the longest label below.
    height, width = images.shape[1] * scale, images.shape[2] * scale
    font = ImageFont.load_default(FONT_SIZE)
    letters_per_line = max(4, int(width / font.getlength("n")))
    notes = notes or [""] * len(images)
    wrapped_labels = [
        _wrap(label, letters_per_line) + ([note] if note else [])
        for label, note in zip(labels, notes, strict=True)
    ]
    cell_height = height + 4 + LINE_HEIGHT * max(len(lines) for lines in wrapped_labels)

    grid_rows = -(-len(images) // columns)
    grid_columns = min(columns, len(images))
    sheet_width = MARGIN + grid_columns * (width + MARGIN)
    sheet_height = MARGIN + grid_rows * (cell_height + MARGIN)
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")

    # Image ``i`` is in row ``i // columns`` and column ``i % columns``.
    draw = ImageDraw.Draw(sheet)
    cells = []
    for i, (pixels, lines) in enumerate(zip(images, wrapped_labels, strict=True)):
        x = MARGIN + (i % columns) * (width + MARGIN)
        y = MARGIN + (i // columns) * (cell_height + MARGIN)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (x, y))
        for n, line in enumerate(lines):
            draw.text((x, y + height + 4 + n * LINE_HEIGHT), line, fill="black", font=font)
        cells.append({"label": labels[i], "note": notes[i], "left": x, "top": y})
    sheet.info[CELLS] = json.dumps(
        {"width": width // scale, "height": height // scale, "scale": scale, CELLS: cells}
    )
    return sheet


def _wrap(label: str, letters_per_line: int) -> list[str]:
    """The label as at most ``MAX_LINES`` lines; one that is cut ends in dots."""
    lines: list[str] = []
    for paragraph in label.split("\n"):
        # textwrap gives no line for an empty paragraph, which should stay visible as a gap.
        lines += textwrap.wrap(paragraph, letters_per_line) or [""]

    if len(lines) > MAX_LINES:
        lines = lines[:MAX_LINES]
        lines[-1] = lines[-1][: letters_per_line - 3] + "..."
    return lines
