"""DPG-Bench's prompts: a folder of texts, and its questions if ``dpg_bench.csv`` is there.

The stem of a text's file is its ``item_id`` (github.com/TencentQQGYLab/ELLA, ``dpg_bench/``).
"""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from corl_jax.core.errors import UserError, describe_error
from corl_jax.suites.generation.prompts import (
    GenerationPrompt,
    check_id,
    check_prompt,
    check_prompts,
    decode,
)

COLUMNS = (
    "item_id", "text", "proposition_id", "dependency", "category_broad", "category_detailed",
    "tuple", "question_natural_language",
)  # fmt: skip
"""Columns of ``dpg_bench.csv`` that are read; it also has ``keywords``."""


def read_dpg(path: pathlib.Path) -> tuple[GenerationPrompt, ...]:
    """Reads the folder of texts, or ``dpg_bench.csv``, which has the prompts as well.

    Returns:
      the prompts in the order of their ids; from the csv file, ``metadata`` has ``questions``.

    Raises:
      UserError: there are no prompts, or a file or row that cannot be read.
    """
    if path.is_dir():
        prompts = [_read_text(file) for file in sorted(path.glob("*.txt"))]
    elif path.suffix == ".csv":
        prompts = _read_questions(path)
    else:
        raise UserError(
            f"DPG-Bench must be its folder of .txt files or dpg_bench.csv; got {str(path)!r}. "
            "Check the path"
        )
    return check_prompts(prompts, repr(str(path)))


def _read_text(file: pathlib.Path) -> GenerationPrompt:
    label = repr(str(file))
    text = check_prompt(decode(_read_bytes(file), label), label)
    return GenerationPrompt(check_id(file.stem, label), text, "", {})


def _read_questions(path: pathlib.Path) -> list[GenerationPrompt]:
    """One prompt for all rows of an item."""
    texts: dict[str, str] = {}
    questions: dict[str, list[Mapping[str, Any]]] = {}
    for label, row in _rows(path):
        item = check_id(row["item_id"], label)
        text = check_prompt(row["text"], label)
        if texts.setdefault(item, text) != text:
            raise UserError(
                f"{label}: an item must have one text; got another one for {item!r} than above. "
                "Get the file again"
            )
        questions.setdefault(item, []).append(_question(row, label))

    return [
        GenerationPrompt(item, texts[item], "", {"questions": questions[item]})
        for item in sorted(texts)
    ]


def _question(row: Mapping[str, str], label: str) -> dict[str, Any]:
    """A row's question; ``dependency`` are the numbers of the questions that must be right first."""
    try:
        number = int(row["proposition_id"])
        dependency = [int(part) for part in row["dependency"].split(",")]
    except ValueError:
        raise UserError(
            f"{label}: proposition_id must be a whole number and dependency several with commas; "
            f"got {row['proposition_id']!r} and {row['dependency']!r}. Get the file again"
        ) from None
    texts = {name: row[name] for name in COLUMNS[4:]}
    return texts | {"proposition_id": number, "dependency": dependency}


def _rows(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Label and columns of every row."""
    reader = csv.DictReader(io.StringIO(decode(_read_bytes(path), repr(str(path))), newline=""))
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{str(path)!r} must have the columns {', '.join(COLUMNS)}; {missing[0]!r} is "
                "missing. Take dpg_bench.csv as its owners publish it"
            )
        for row in reader:
            label = f"line {reader.line_num} of {str(path)!r}"
            # A row that is too long has its rest under None, one that is too short has None.
            if None in row or any(row[name] is None for name in COLUMNS):
                raise UserError(
                    f"{label} must have {len(reader.fieldnames or ())} columns; got another "
                    "number. Get the file again"
                )
            yield label, row
    except csv.Error as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({describe_error(error)}); get the file again"
        ) from None


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({describe_error(error)}); check the file"
        ) from None
