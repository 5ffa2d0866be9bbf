"""JSON Lines, a JSON list of objects, CSV: a file of rows, and the pictures that it names."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_json, read_lines
from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.sources.table import Row

SUFFIXES = (".jsonl", ".json", ".csv")
ADVICE = "write one object per line"

OTHER_FILES = {
    b"\x1f\x8b": "a gzip archive; unpack it with gunzip",
    b"PK\x03\x04": "a zip archive; unpack it with unzip",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it with unzstd",
    b"PAR1": "a Parquet file; name it *.parquet",
    b"ARROW1": "an Arrow file; name it *.arrow",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8, for example with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8, for example with iconv -f UTF-16 -t UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
}
"""First bytes of files that are no text in UTF-8, and what to do with them."""


def check_text_file(path: pathlib.Path) -> None:
    """Refuses files that are plainly no text in UTF-8.

    Raises:
      UserError: with what the file is.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({describe_error(error)}); check the file"
        ) from None
    for magic, description in OTHER_FILES.items():
        if start.startswith(magic):
            raise UserError(f"{str(path)!r} must be text in UTF-8; got {description}")
    # UTF-16 without its mark has a NUL beside every ASCII character.
    if start.count(0) >= max(len(start) // 4, 1):
        raise UserError(
            f"{str(path)!r} must be text in UTF-8; got NUL bytes, as in UTF-16; save it as UTF-8"
        )


@dataclasses.dataclass(frozen=True)
class JsonTable:
    """Rows of a ``.jsonl``, ``.json`` or ``.csv`` file.

    Attributes:
      path: of the file; paths of pictures are relative to its folder.
      columns: keys of any row.
    """

    path: pathlib.Path
    columns: Sequence[str]
    _rows: Sequence[Row] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: pathlib.Path) -> JsonTable:
        """Reads the file.

        Raises:
          UserError: it is not text in UTF-8, or has no rows. Rows that are damaged have a
            ``problem``.
        """
        check_text_file(path)
        read = {".json": read_json_list, ".csv": read_csv}.get(path.suffix, read_json_lines)
        rows = list(read(path))
        if not rows:
            raise UserError(f"{str(path)!r} has no records; write one JSON object per line")
        if all(row.problem for row in rows):
            raise UserError(f"{rows[0].problem}; no row of the file can be read")
        columns = dict.fromkeys(key for row in rows for key in row.values)
        return cls(path, tuple(columns), rows)

    @property
    def label(self) -> str:
        return repr(str(self.path))

    @property
    def folder(self) -> pathlib.Path:
        return self.path.parent

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        return (self.path,)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, whole."""
        return iter(self._rows)


def read_json_lines(path: pathlib.Path) -> Iterator[Row]:
    """A row for each line; one that is no object has a ``problem``."""
    for number, line in read_lines(path):
        location = f"line {number} of {str(path)!r}"
        yield _json_row(
            lambda text=line, at=location: parse_json(text, at, ADVICE), location, path, number
        )


def read_json_list(path: pathlib.Path) -> Iterator[Row]:
    """A row for each item of a list; one that is no object has a ``problem``."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{str(path)!r} must be a JSON list of objects; got another value")
    for number, value in enumerate(content, 1):
        yield _json_row(lambda item=value: item, f"object {number} of {str(path)!r}", path, number)


def _json_row(read, location: str, path: pathlib.Path, number: int) -> Row:
    """A row, or what is wrong with it."""
    name = f"{path.stem}-{number}"
    try:
        return Row(location, name, JsonObject.check(read(), location, ADVICE).entries)
    except UserError as error:
        return Row(location, name, {}, str(error))


def read_csv(path: pathlib.Path, delimiter: str = ",") -> Iterator[Row]:
    """A row for each line of a table, without its empty cells."""
    # A cell may hold pictures in base64.
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for number, values in enumerate(reader, 1):
                location = f"row {number} of {str(path)!r}"
                yield _csv_row(values, location, f"{path.stem}-{number}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} must be a table in CSV and UTF-8; got {describe_error(error)}"
        ) from None


def _csv_row(values: Mapping[str | None, object], location: str, name: str) -> Row:
    texts = {key: value for key, value in values.items() if key is not None and value != ""}
    if None in values or None in values.values():
        problem = f"{location} must have as many cells as the head; got more or fewer"
        return Row(location, name, {}, problem)
    return Row(location, name, texts)
