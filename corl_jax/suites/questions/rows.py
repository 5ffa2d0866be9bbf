"""Rows of the files in which benchmarks are published, whatever their form.

Tables with tabs or commas, JSON Lines, JSON lists, JSON objects whose keys are ids, Parquet and
Arrow files and folders of these, and MME's folders of pictures and texts.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.errors import UserError
from corl_jax.data.sources.hub_sets import FORMATS, open_files, open_saved
from corl_jax.data.sources.json_tables import (
    check_text_file,
    read_csv,
    read_json_lines,
    read_json_list,
)
from corl_jax.data.sources.table import Row

KEY = "key"
"""Column of the key of an object in a JSON object of objects."""
DELIMITERS = {".tsv": "\t", ".csv": ","}
KNOWN = ", ".join((*DELIMITERS, ".jsonl", ".json", *FORMATS))


def read_rows(path: pathlib.Path) -> list[Row]:
    """All rows of a file, or of the files in a folder.

    Args:
      path: a file, a folder with Parquet or Arrow files, one that ``datasets.save_to_disk`` wrote,
        or MME's folder with a folder for each kind of question.

    Raises:
      UserError: it is none of them, it has no rows, or a row cannot be read.
    """
    if not path.exists():
        raise UserError(f"--data must be a file or a folder; there is no {str(path)!r}")
    rows = list(_read_folder(path) if path.is_dir() else _read_file(path))
    if not rows:
        raise UserError(f"{str(path)!r} has no rows; get the file again")
    if damaged := [row for row in rows if row.problem]:
        raise UserError(damaged[0].problem)
    return rows


def _read_file(path: pathlib.Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        yield from _read_hub_files([path], path.parent)
    elif suffix in DELIMITERS:
        check_text_file(path)
        yield from read_csv(path, DELIMITERS[suffix])
    elif suffix in (".jsonl", ".json"):
        yield from _read_json(path)
    else:
        raise UserError(f"--data must end in one of {KNOWN}; got {str(path)!r}. Convert it")


def _read_folder(folder: pathlib.Path) -> Iterator[Row]:
    if (folder / "state.json").is_file():
        table = open_saved(folder, repr(str(folder)), folder.name)
        yield from table.rows(table.columns)
        return
    for suffix in FORMATS:
        if files := sorted(folder.rglob(f"*{suffix}")):
            yield from _read_hub_files(files, folder)
            return
    # MME has a folder for every kind, with a text beside, or in a folder beside, each picture.
    texts = sorted(path for path in folder.rglob("*.txt") if path.parent != folder)
    if not texts:
        raise UserError(
            f"--data must be a folder with files that end in one of {', '.join(FORMATS)}, or one of "
            f"MME; {str(folder)!r} has neither. Name the file itself"
        )
    for text in texts:
        yield from _read_mme_text(text, folder)


def _read_hub_files(files: Sequence[pathlib.Path], folder: pathlib.Path) -> Iterator[Row]:
    table = open_files(files, repr(str(folder)), folder.name, folder, "")
    yield from table.rows(table.columns)


def _read_json(path: pathlib.Path) -> Iterator[Row]:
    """A list, an object of objects, or a line for each row, which some files call ``.json``."""
    check_text_file(path)
    with path.open("rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")

    if start.startswith(b"["):
        yield from read_json_list(path)
    elif _is_one_object(path):
        content = JsonObject.read(path)
        for key in content.entries:
            row = content.block(key)
            yield Row(f"{key!r} in {str(path)!r}", key, {KEY: key, **row.entries})
    else:
        yield from read_json_lines(path)


def _is_one_object(path: pathlib.Path) -> bool:
    """Whether a file that begins with ``{`` is one object of objects and not one in each line."""
    lines = [line for _, line in itertools.islice(read_lines(path), 2)]
    if not lines:
        return False
    try:
        value = parse_json(lines[0], repr(str(path)))
    except UserError:
        # An object that goes on in the next line; a damaged first line is named when it is read.
        return len(lines) > 1 and path.suffix == ".json"
    return isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())


def _read_mme_text(text: pathlib.Path, folder: pathlib.Path) -> Iterator[Row]:
    """The questions about one picture of MME: lines with a question, a tab and Yes or No."""
    picture = _mme_picture(text)
    category = text.relative_to(folder).parts[0]
    check_text_file(text)
    for number, line in enumerate(text.read_text(encoding="utf-8").splitlines(), 1):
        location = f"line {number} of {str(text)!r}"
        question, tab, answer = line.rpartition("\t")
        if not tab:
            if line.strip():
                raise UserError(f"{location} must be a question, a tab and Yes or No; got {line!r}")
            continue
        values: Mapping[str, object] = {
            "question": question,
            "answer": answer,
            "category": category,
            "image_path": str(picture),
            "index": f"{category}/{text.stem}/{number}",
        }
        yield Row(location, f"{category}/{text.stem}/{number}", values)


def _mme_picture(text: pathlib.Path) -> pathlib.Path:
    """The picture that a text is about: of the same name, beside it or in ``images`` beside."""
    for folder in (text.parent, text.parent.parent / "images"):
        for suffix in (".jpg", ".png", ".jpeg"):
            if (picture := folder / f"{text.stem}{suffix}").is_file():
                return picture
    raise UserError(f"{str(text)!r} has no picture of its name beside it; get the folder again")
