"""A grid of captioned images, for people to look at.

In: uint8 images and a label for each. Out: one PIL image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels around each cell; size of a letter; largest number of lines of a label.
MARGIN, FONT_SIZE, MAX_LINES = 8, 13, 4
LINE_HEIGHT = FONT_SIZE + 4


def image_grid(
    images: np.ndarray, labels: Sequence[str], columns: int, scale: int = 1, text_width: int = 0
) -> Image.Image:
    """Arranges images row by row on white, each with its label below.

    Args:
      images: uint8 ``[N, H, W, 3]``.
      labels: ``N`` captions. Line breaks are kept and long lines wrap; at most four lines are
        shown.
      columns: images per row.
      scale: integer magnification, without smoothing.
      text_width: smallest width of a cell in pixels, for long captions under small images.

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
    if len(labels) != len(images) or columns < 1 or scale < 1:
        raise ValueError(
            "images and labels must be as many, columns and scale at least 1; "
            f"got {len(images)} images, {len(labels)} labels, {columns} columns, scale {scale}"
        )

    # All cells have one size: that of the images, with room for the longest label below.
    height, width = images.shape[1] * scale, images.shape[2] * scale
    font = ImageFont.load_default(FONT_SIZE)
    cell_width = max(width, text_width)
    letters_per_line = max(4, int(cell_width / font.getlength("n")))
    wrapped_labels = [_wrap(label, letters_per_line) for label in labels]
    cell_height = height + 4 + LINE_HEIGHT * max(len(lines) for lines in wrapped_labels)

    grid_rows = -(-len(images) // columns)
    grid_columns = min(columns, len(images))
    sheet_width = MARGIN + grid_columns * (cell_width + MARGIN)
    sheet_height = MARGIN + grid_rows * (cell_height + MARGIN)
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")

    # Image ``i`` is in row ``i // columns`` and column ``i % columns``.
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, lines) in enumerate(zip(images, wrapped_labels, strict=True)):
        x = MARGIN + (i % columns) * (cell_width + MARGIN)
        y = MARGIN + (i // columns) * (cell_height + MARGIN)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (x, y))
        for n, line in enumerate(lines):
            draw.text((x, y + height + 4 + n * LINE_HEIGHT), line, fill="black", font=font)
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
