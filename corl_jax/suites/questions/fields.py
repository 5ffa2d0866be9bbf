"""What stands in the cells of a benchmark's row: texts, lists, options, pictures."""

from __future__ import annotations

import ast
import base64
import binascii
import dataclasses
import functools
import hashlib
import pathlib
import re
import string
from collections.abc import Mapping, Sequence
from typing import NoReturn

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.data.sources.columns import plain_value
from corl_jax.data.sources.pictures import (
    Picture,
    StoredPicture,
    picture_bytes,
    read_picture,
)
from corl_jax.data.sources.table import Row

LETTERS = string.ascii_uppercase
LONGEST_REFERENCE = 64
"""Characters of a cell that names the row with its picture; pictures in base64 are longer."""


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of a row, with errors that name it.

    Attributes:
      row: as it was read.
      folder: that paths of pictures are relative to.
    """

    row: Row
    folder: pathlib.Path

    def has(self, column: str) -> bool:
        """Whether the cell is there and neither empty nor NaN."""
        value = self.row.values.get(column)
        return value is not None and value == value and value != ""

    def text(self, column: str) -> str:
        """A text, or a number as one; "" where there is none.

        Raises:
          UserError: another value.
        """
        if not self.has(column):
            return ""
        value = plain_value(self.row.values[column])
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.refuse(column, "a text")
        # Tables that went through floats have 3.0 for an index.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value)

    def required_text(self, column: str) -> str:
        """A text that is not empty.

        Raises:
          UserError: there is none.
        """
        if text := self.text(column):
            return text
        raise UserError(
            f"{self.row.location}: {column} must be a text; got nothing. Get the file again"
        )

    def list_of(self, column: str) -> tuple[str, ...]:
        """A list, or a text with a list as Python and JSON write it; () where there is none.

        Raises:
          UserError: another value.
        """
        if not self.has(column):
            return ()
        value = plain_value(self.row.values[column])
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                self.refuse(column, "a list")
        if not isinstance(value, list | tuple):
            self.refuse(column, "a list")
        return tuple(str(item) for item in value)

    def mapping(self, column: str) -> Mapping[str, object]:
        """An object; an empty one where there is none."""
        if not self.has(column):
            return {}
        value = self.row.values[column]
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                self.refuse(column, "an object")
        if not isinstance(value, Mapping):
            self.refuse(column, "an object")
        return value

    def refuse(self, column: str, expectation: str) -> NoReturn:
        """Raises the UserError about a cell."""
        raise UserError(
            f"{self.row.location}: {column} must be {expectation}; got "
            f"{show_value(self.row.values[column])}. Get the file again"
        )

    def lettered_choices(self) -> dict[str, str]:
        """The options of a table with a column for each letter."""
        return {letter: self.text(letter) for letter in LETTERS if self.has(letter)}

    def picture(self, column: str) -> Picture:
        """The picture of a cell: a path, bytes, or an object of both.

        Raises:
          UserError: there is none, or no such file.
        """
        value = plain_value(self.row.values.get(column))
        picture = read_picture(value, column, self.folder, self.row.location)
        if picture is None:
            raise UserError(
                f"{self.row.location}: {column} must be a picture; got nothing. Get the file again"
            )
        return picture

    def numbered_pictures(self) -> tuple[Picture, ...]:
        """The pictures of columns ``image_1``, ``image_2``, ..., as MMMU has them."""
        columns = [f"image_{number}" for number in range(1, 8)]
        present = [column for column in columns if self.has(column)]
        return tuple(self.picture(column) for column in present)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options under the letters A, B, ..."""
    return dict(zip(LETTERS, options, strict=False))


def split_options(text: str) -> dict[str, str]:
    """Options in one text, ``A. 4; B. 5`` or ``A: 4, B: 5``, by letter; {} where there are none.

    Only letters that follow each other begin an option. Characters stay as they are, since they
    become a prompt; ``data.answers.options.list_options`` makes them canonical.
    """
    # Where each letter begins its option, and where the text of the option begins.
    marks: list[tuple[int, int]] = []
    for letter in LETTERS:
        start = marks[-1][1] if marks else 0
        match = re.compile(rf"(?:^|(?<=[\s,;])){letter}[.:)]\s*").search(text, start)
        if match is None:
            break
        marks.append((match.start(), match.end()))

    ends = [start for start, _ in marks[1:]] + [len(text)]
    options = [text[start:end] for (_, start), end in zip(marks, ends, strict=False)]
    return lettered([option.strip().rstrip(",;").strip() for option in options])


def base64_picture(text: str, column: str, location: str) -> StoredPicture:
    """A picture in base64, decoded when it is needed.

    Raises:
      UserError: it does not begin as base64 does.
    """

    def fetch() -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise UserError(
                f"{location}: {column} must be a picture in base64 ({error}); get the file again"
            ) from None

    return StoredPicture(fetch, len(text) * 3 // 4)


def picture_name(picture: Picture) -> str:
    """A short name that pictures have in common only where their bytes are the same.

    Raises:
      UserError: a file that cannot be read.
    """
    # Many questions may be about one file.
    return _file_name(picture) if isinstance(picture, pathlib.Path) else _name(picture.fetch())


@functools.lru_cache(maxsize=1 << 16)
def _file_name(path: pathlib.Path) -> str:
    return _name(picture_bytes(path, "a question"))


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
