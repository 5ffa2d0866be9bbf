"""GenEval's prompts: ``evaluation_metadata.jsonl``, one specification of a picture per line.

``{"tag": "position", "include": [{"class": "bird", "count": 1}, {"class": "cup", "count": 1,
"position": ["left of", 0]}], "prompt": "a photo of a cup left of a bird"}``
(github.com/djghosh13/geneval, ``prompts/create_prompts.py`` writes such files).
"""

from __future__ import annotations

import pathlib
from collections.abc import Set

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.suites.generation.prompts import (
    GenerationPrompt,
    check_prompt,
    check_prompts,
    json_lines,
)

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""Kinds of prompts; the overall figure is the mean of theirs."""
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
"""Colours that a picture's objects are told apart by."""
OBJECT_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse",
    "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of its prompts, those of COCO with three names that say more."""
RELATIONS = ("left of", "right of", "above", "below")
"""Where an object may have to be, seen from another one."""

PROMPT_KEYS = {"tag", "include", "exclude", "prompt"}
INCLUDE_KEYS = {"class", "count", "color", "position"}
EXCLUDE_KEYS = {"class", "count"}


def read_geneval(path: pathlib.Path) -> tuple[GenerationPrompt, ...]:
    """Reads the prompts; the id is the number of the line from 0 in five digits, as in folders.

    Raises:
      UserError: a line that the official judge could not read, or would read in part.
    """
    prompts = []
    for place, (label, entry) in enumerate(json_lines(path)):
        check_specification(entry)
        prompts.append(
            GenerationPrompt(
                id=f"{place:05d}",
                prompt=check_prompt(entry.text("prompt"), label),
                category=entry.text("tag"),
                metadata=entry.entries,
            )
        )
    return check_prompts(prompts, repr(str(path)))


def check_specification(entry: JsonObject) -> None:
    """Checks what one line asks of a picture.

    Raises:
      UserError: a key or a value that the rules do not know: a judge would pass over it.
    """
    _refuse_unknown_keys(entry, PROMPT_KEYS)
    if entry.text("tag") not in TAGS:
        entry.refuse("tag", f"one of {', '.join(TAGS)}")

    clauses = entry.blocks("include")
    if not clauses:
        entry.refuse("include", "a list of at least one object")
    for place, clause in enumerate(clauses):
        _check_clause(clause, INCLUDE_KEYS)
        if clause.has("color") and clause.text("color") not in COLOURS:
            clause.refuse("color", f"one of {', '.join(COLOURS)}")
        if clause.has("position"):
            _check_position(clause, place)

    for clause in entry.blocks("exclude") if entry.has("exclude") else []:
        _check_clause(clause, EXCLUDE_KEYS)


def _check_clause(clause: JsonObject, keys: Set[str]) -> None:
    _refuse_unknown_keys(clause, keys)
    if not clause.text("class").strip():
        clause.refuse("class", "the name of an object")
    clause.integer("count", low=1)


def _check_position(clause: JsonObject, place: int) -> None:
    """A relation and the number of an earlier object."""
    value = clause.entries["position"]
    is_valid = (
        isinstance(value, list)
        and len(value) == 2
        and value[0] in RELATIONS
        and type(value[1]) is int
        and 0 <= value[1] < place
    )
    if not is_valid:
        expectation = f"[relation, number of an object before it], one of {', '.join(RELATIONS)}"
        clause.refuse("position", expectation)


def _refuse_unknown_keys(entry: JsonObject, known: Set[str]) -> None:
    for name in entry.entries:
        if name not in known:
            entry.refuse(name, f"absent: GenEval has the keys {', '.join(sorted(known))}")
