"""Records in a JSON Lines file, one a row, with the columns of ``mm-vl/x2x_rft_22k``. In: a path; out: ``Row``s.

``prompt``, ``real_image`` (a path, relative to the file), ``qa_problem``, ``qa_solution``, ``qa_type``; where a row
has them ``id``, ``kind``, ``cls_problem``, ``cls_solution``, ``od_problem``, ``od_solution``, and what is to be judged:
``picture`` (a path) and ``completion`` (a text).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.images import load_image
from corl_jax.data.records import check

NEEDED = ("prompt", "real_image", "qa_problem", "qa_solution", "qa_type")
MAYBE = {
    "kind": "kind",
    "class_question": "cls_problem",
    "class_answer": "cls_solution",
    "box_question": "od_problem",
    "box_answer": "od_solution",
}
"""Fields of a Record that a row may have, and how its column is called."""
TAG = re.compile(r"<answer>(.*?)</answer>", re.S)
OPTION = re.compile(r"^([A-Z])[.)] *(.+?) *$", re.M)


@dataclasses.dataclass(frozen=True)
class Row:
    """A record, the picture that is to be judged (the real one where the file names none), and maybe a text."""

    record: Record
    picture: np.ndarray
    completion: str | None


def read_records(path: pathlib.Path) -> list[Row]:
    """All rows of a file.

    Raises:
      UserError: no such file, or a row that cannot be used; it names the line.
    """
    if not path.is_file():
        raise UserError(f"{str(path)!r} is no file; expected records as JSON Lines")
    return [_row(raw, path, name) for _, name, raw in read_lines(path)]


def read_lines(path: pathlib.Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Every row of a file as it stands: where it is, for errors; its id; its columns. No picture is read.

    Raises:
      UserError: a row that is no object with the columns needed, or no row.
    """
    rows = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if line.strip():
            raw = _columns(line, where := f"line {number} of {str(path)!r}")
            rows.append((where, str(raw.get("id", f"{path.stem}-{number}")), raw))
    if not rows:
        raise UserError(f"{str(path)!r} holds no record; expected one JSON object a line")
    return rows


def _columns(line: str, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); expected one object a line") from None
    if not isinstance(raw, dict):
        raise UserError(f"{where} holds a {type(raw).__name__}; expected an object")
    if missing := [name for name in NEEDED if not isinstance(raw.get(name), str)]:
        raise UserError(f"{where} has no text {missing[0]!r}; expected {', '.join(NEEDED)}")
    raw = {name: value for name, value in raw.items() if value is not None}
    if odd := [name for name in MAYBE.values() if not isinstance(raw.get(name, ""), str)]:
        raise UserError(f"{where}: {odd[0]} is {raw[odd[0]]!r}; expected a text, or leave it out")
    return raw


def _row(raw: Mapping[str, Any], path: pathlib.Path, name: str) -> Row:
    real = load_image(path.parent / raw["real_image"])
    picture = load_image(path.parent / raw["picture"]) if "picture" in raw else real
    return Row(check(record_of(raw, name, real)), picture, raw.get("completion"))


def record_of(raw: Mapping[str, Any], name: str, image: np.ndarray) -> Record:
    """One row as a Record; the options of multiple choice are read off the question."""
    question, kind = raw["qa_problem"], "MC" if raw["qa_type"] == "MC" else "OE"
    _, listed, options = question.partition("Options:")
    found = OPTION.findall(options) if listed else []
    choices = (
        tuple(text for i, (letter, text) in enumerate(found) if letter == chr(ord("A") + i))
        if kind == "MC"
        else ()
    )
    extra = {
        ours: bare(raw[theirs]) if ours.endswith("answer") else raw[theirs]
        for ours, theirs in MAYBE.items()
        if theirs in raw
    }
    answer, said = bare(raw["qa_solution"]), raw["qa_solution"].strip()
    solution = said if TAG.search(said) else f"<answer>{answer}</answer>"
    return Record(
        name,
        raw["prompt"],
        image,
        question,
        answer,
        kind,  # type: ignore[arg-type]
        choices,
        solution=solution,
        **extra,
    )


def bare(text: str) -> str:
    """What stands in the answer tags, or all of it without them."""
    found = TAG.search(text)
    return (found.group(1) if found else text).strip()
