"""A prompt of a generation suite, and the checks that all readers of prompts share."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.errors import UserError

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Ids become names of files, and a judge of DPG-Bench takes what stands before the first dot."""


@dataclasses.dataclass(frozen=True)
class GenerationPrompt:
    """One prompt of a suite.

    Attributes:
      id: unique in the suite; part of file names, see ``ID_PATTERN``.
      prompt: the text that is drawn.
      category: for break-downs; "" for none.
      metadata: what else its file says, as JSON values.
    """

    id: str
    prompt: str
    category: str
    metadata: Mapping[str, Any]


def check_prompts(prompts: Sequence[GenerationPrompt], label: str) -> tuple[GenerationPrompt, ...]:
    """The prompts, of which there is at least one and no id twice.

    Args:
      label: of the file that they come from.

    Raises:
      UserError: there are none, or an id is there twice.
    """
    if not prompts:
        raise UserError(f"{label} must have at least one prompt; got none. Check the file")
    ids: set[str] = set()
    for prompt in prompts:
        # Some disks take names for equal that differ in capitals only.
        if prompt.id.lower() in ids:
            raise UserError(
                f"{label} must have every id once; got {prompt.id!r} twice (capitals do not "
                "count). Rename one of them"
            )
        ids.add(prompt.id.lower())
    return tuple(prompts)


def check_id(text: str, label: str) -> str:
    """``text``, which can be a file's name everywhere.

    Raises:
      UserError: it cannot.
    """
    if not ID_PATTERN.fullmatch(text):
        raise UserError(
            f"{label}: an id must have 1 to 100 letters, digits, '-' or '_', the first a letter or "
            f"a digit, since files are named after it; got {text[:100]!r}. Rename it"
        )
    return text


def check_prompt(text: str, label: str) -> str:
    """``text`` without white space at its ends.

    Raises:
      UserError: nothing is left.
    """
    if not text.strip():
        raise UserError(f"{label}: a prompt must have words; got an empty text. Write or remove it")
    return text.strip()


def json_lines(path: pathlib.Path) -> Iterator[tuple[str, JsonObject]]:
    """Label and object of every line that is not blank.

    Raises:
      UserError: the file cannot be read, or a line is no JSON object.
    """
    for number, line in read_lines(path):
        label = f"line {number} of {str(path)!r}"
        yield label, JsonObject.check(parse_json(line, label), label)


def text_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Label and text of every line that is not blank.

    Raises:
      UserError: the file cannot be read, or a line is not UTF-8.
    """
    for number, line in read_lines(path):
        label = f"line {number} of {str(path)!r}"
        yield label, decode(line, label).strip()


def decode(content: bytes, label: str) -> str:
    """UTF-8 as text, without the mark with which some editors begin a file.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label} must be text in UTF-8; got byte 0x{content[error.start]:02x} at position "
            f"{error.start}. Save the file as UTF-8"
        ) from None
