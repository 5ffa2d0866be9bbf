"""PNG files of grids of images, which hold labels and places as text too.

So a page can show whole captions beside single images, where the grid has room for some lines.
"""

from __future__ import annotations

import io
import pathlib

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json
from corl_jax.core.errors import UserError, describe_error
from corl_jax.engine.image_grid import CELLS

ADVICE = "remove the file"


def png_bytes(image: Image.Image) -> bytes:
    """A PNG file of any image; that of a grid holds its labels and places too."""
    texts = PngInfo()
    if CELLS in image.info:
        texts.add_itxt(CELLS, image.info[CELLS])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def read_cells(path: pathlib.Path) -> list[tuple[str, str, Image.Image]]:
    """Label, note and image of each cell of a PNG file; none of an image that is no grid.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            text, sheet = image.text.get(CELLS), image.convert("RGB")
    # The library raises nothing narrower for damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{str(path)!r} must be a PNG file; got {describe_error(error)}; {ADVICE}"
        ) from None
    if text is None:
        return []

    label = f"the text {CELLS!r} of {str(path)!r}"
    content = JsonObject.check(parse_json(text.encode(), label, ADVICE), label, ADVICE)
    scale = content.integer("scale", low=1, high=max(sheet.size))
    width = content.integer("width", low=1, high=sheet.width // scale)
    height = content.integer("height", low=1, high=sheet.height // scale)
    cells = []
    for cell in content.blocks(CELLS):
        x = cell.integer("left", high=sheet.width - width * scale)
        y = cell.integer("top", high=sheet.height - height * scale)
        picture = sheet.crop((x, y, x + width * scale, y + height * scale))
        picture = picture.resize((width, height), Image.Resampling.NEAREST)
        cells.append((cell.text("label"), cell.text("note"), picture))
    return cells
