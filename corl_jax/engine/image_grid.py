"""A sheet of pictures with captions, for people to look at.

In: uint8 pictures and a label for each. Out: one PIL image, or a PNG file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN, FONT_SIZE, LINES = 8, 13, 4


def image_grid(
    pictures: np.ndarray, labels: Sequence[str], columns: int, scale: int = 1, text_width: int = 0
) -> Image.Image:
    """Lays pictures out row by row on white, each with its label below.

    Args:
      pictures: uint8 ``[N, H, W, 3]``.
      labels: ``N`` captions; line breaks are kept, long lines wrap, at most four lines are shown.
      columns: pictures per row.
      scale: whole-number magnification, without smoothing.
      text_width: least width of a cell in pixels, for long captions under small pictures.

    Returns:
      one RGB image.

    Raises:
      ValueError: shapes, dtype or counts that do not fit together.
    """
    pictures = np.asarray(pictures)
    if (
        pictures.dtype != np.uint8
        or pictures.ndim != 4
        or pictures.shape[-1] != 3
        or not len(pictures)
    ):
        raise ValueError(
            f"expected uint8 pictures [N, H, W, 3], got {pictures.dtype}{list(pictures.shape)}"
        )
    if len(labels) != len(pictures) or columns < 1 or scale < 1:
        raise ValueError(
            f"{len(pictures)} pictures, {len(labels)} labels, {columns} columns, scale {scale}"
        )
    height, width = pictures.shape[1] * scale, pictures.shape[2] * scale
    font = ImageFont.load_default(FONT_SIZE)
    cell_width = max(width, text_width)
    letters = max(4, int(cell_width / font.getlength("n")))
    texts = [_wrap(label, letters) for label in labels]
    line_height = FONT_SIZE + 4
    cell_height = height + 4 + line_height * max(len(lines) for lines in texts)
    rows = -(-len(pictures) // columns)
    across = min(columns, len(pictures))
    sheet = Image.new(
        "RGB",
        (MARGIN + across * (cell_width + MARGIN), MARGIN + rows * (cell_height + MARGIN)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, lines) in enumerate(zip(pictures, texts, strict=True)):
        left = MARGIN + (i % columns) * (cell_width + MARGIN)
        top = MARGIN + (i // columns) * (cell_height + MARGIN)
        sheet.paste(
            Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST), (left, top)
        )
        for n, line in enumerate(lines):
            draw.text((left, top + height + 4 + n * line_height), line, fill="black", font=font)
    return sheet


def _wrap(label: str, letters: int) -> list[str]:
    """``label`` as at most ``LINES`` lines of at most ``letters`` letters."""
    lines = [part for line in label.split("\n") for part in textwrap.wrap(line, letters) or [""]]
    if len(lines) > LINES:
        lines = lines[:LINES]
        lines[-1] = lines[-1][: letters - 3] + "..."
    return lines
