"""Pictures with captions beside them, and lists of prompts: files of plain text."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from corl_jax.core.checks.json_reader import read_lines
from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.sources.json_tables import check_text_file
from corl_jax.data.sources.table import Row

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")


@dataclasses.dataclass(frozen=True)
class PlainTable:
    """Rows that are read from files of text.

    Attributes:
      label: what errors call it.
      columns: ``prompt``, perhaps also ``id`` and ``image``.
      folder: that paths of pictures are relative to.
      files: that are read.
    """

    label: str
    columns: tuple[str, ...]
    folder: pathlib.Path
    files: tuple[pathlib.Path, ...]
    _rows: Sequence[Row] = dataclasses.field(repr=False)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, whole."""
        return iter(self._rows)


def open_prompt_list(path: pathlib.Path) -> PlainTable:
    """A ``.txt`` file with one prompt per line."""
    check_text_file(path)
    rows = []
    for number, line in read_lines(path):
        location = f"line {number} of {str(path)!r}"
        text, problem = _decode(line, location)
        rows.append(Row(location, f"{path.stem}-{number}", {"prompt": text}, problem))
    return PlainTable(repr(str(path)), ("prompt",), path.parent, (path,), rows)


def open_captions(folder: pathlib.Path) -> PlainTable | None:
    """A folder of ``NAME.txt`` files with one prompt each, and pictures ``NAME.jpg`` beside them.

    Returns:
      None if the folder has no text files. Where it has pictures, every one must have its text and
      the other way round; a row of one without the other has a problem.
    """
    # Sorted, so that the order of records does not depend on the file system.
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    texts = {path.stem: path for path in paths if path.suffix.lower() == ".txt"}
    pictures: dict[str, list[pathlib.Path]] = {}
    for path in paths:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(path.stem, []).append(path)
    if not texts:
        return None

    stems = sorted(texts.keys() | pictures.keys())
    rows = [
        _caption_row(stem, texts.get(stem), pictures.get(stem, []), bool(pictures))
        for stem in stems
    ]
    columns = ("id", "prompt", "image") if pictures else ("id", "prompt")
    files = tuple(texts[stem] for stem in sorted(texts))
    return PlainTable(f"the folder {str(folder)!r}", columns, folder, files, rows)


def _caption_row(
    stem: str, text: pathlib.Path | None, pictures: Sequence[pathlib.Path], with_pictures: bool
) -> Row:
    """The row of the files called ``stem``."""
    location = f"{str(text or pictures[0])!r}"
    values: dict[str, object] = {"id": stem}
    if text is None:
        return Row(location, stem, values, f"{location} must have its caption in {stem}.txt")
    if with_pictures and len(pictures) != 1:
        problem = f"{location} must have one picture beside it; got {len(pictures)}. Add or drop it"
        return Row(location, stem, values, problem)

    if with_pictures:
        values["image"] = pictures[0].name
    try:
        check_text_file(text)
        values["prompt"], problem = _decode(text.read_bytes(), location)
    except (UserError, OSError) as error:
        return Row(location, stem, values, describe_error(error))
    return Row(location, stem, values, problem)


def _decode(content: bytes, location: str) -> tuple[str, str]:
    """A text, and what is wrong with it."""
    try:
        return content.decode("utf-8-sig").strip(), ""
    except UnicodeDecodeError as error:
        byte = f"0x{content[error.start]:02x}"
        return "", f"{location} must be text in UTF-8; got byte {byte}. Save the file as UTF-8"
