"""Prompts of WISE, of T2I-CompBench and of any list, as their owners publish them."""

from __future__ import annotations

import os
import pathlib

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import read_json, show_value
from corl_jax.core.errors import UserError
from corl_jax.suites.generation.prompts import (
    GenerationPrompt,
    check_id,
    check_prompt,
    check_prompts,
    json_lines,
    text_lines,
)

MAX_PROMPT_BYTES = 240
"""Longest prompt of T2I-CompBench, whose pictures are named ``PROMPT_000000.png``: 255 bytes less
the rest of the name."""


def read_wise(path: pathlib.Path) -> tuple[GenerationPrompt, ...]:
    """Reads WISE: a JSON list, or a folder with several of them.

    Entries have ``Prompt``, ``Explanation``, ``Category``, ``Subcategory`` and ``prompt_id``
    (github.com/PKU-YuanGroup/WISE, ``data/*.json``).

    Raises:
      UserError: there is no file, or an entry that the official judge could not read.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(
            f"{str(path)!r} must have WISE's lists, such as natural_science.json; got no .json "
            "file. Check the path"
        )
    prompts = []
    for file in files:
        entries = read_json(file)
        if not isinstance(entries, list):
            raise UserError(f"{str(file)!r} must be a JSON list; got {show_value(entries)}")
        for place, value in enumerate(entries):
            label = f"entry {place} of {str(file)!r}"
            entry = JsonObject.check(value, label)
            # Read for the check: the official judge shows it to its model.
            entry.text("Explanation")
            entry.text("Subcategory")
            prompts.append(
                GenerationPrompt(
                    id=str(entry.integer("prompt_id", low=0)),
                    prompt=check_prompt(entry.text("Prompt"), label),
                    category=entry.text("Category"),
                    metadata=entry.entries,
                )
            )
    return check_prompts(prompts, repr(str(path)))


def read_t2i_compbench(path: pathlib.Path) -> tuple[GenerationPrompt, ...]:
    """Reads a file of T2I-CompBench: a prompt per line, what follows a tab is not part of it.

    The category is the file's name, such as ``color_val``; its pictures get a folder of their own
    (github.com/Karine-Huang/T2I-CompBench, ``examples/dataset``).

    Raises:
      UserError: a prompt that cannot be in a file's name, from which the official judges read it.
    """
    prompts = []
    for place, (label, line) in enumerate(text_lines(path)):
        text = check_prompt(line.split("\t")[0], label)
        if "_" in text or "/" in text or "\0" in text:
            raise UserError(
                f"{label}: a prompt of T2I-CompBench must not have '_' or '/', since its judges read "
                f"it from the name of the picture; got {text[:80]!r}. Use the suite 'prompts'"
            )
        if len(os.fsencode(text)) > MAX_PROMPT_BYTES:
            raise UserError(
                f"{label}: a prompt of T2I-CompBench must have at most {MAX_PROMPT_BYTES} bytes, "
                f"since its pictures are named after it; got {len(os.fsencode(text))}. Use the "
                "suite 'prompts'"
            )
        prompts.append(GenerationPrompt(f"{place:05d}", text, path.stem, {}))
    return check_prompts(prompts, repr(str(path)))


def read_prompt_list(path: pathlib.Path) -> tuple[GenerationPrompt, ...]:
    """Reads ``.txt``, a prompt per line, or ``.jsonl`` with ``prompt`` and perhaps ``id``, ``category``.

    Without ids they are the numbers of the prompts from 0 in five digits.

    Raises:
      UserError: another ending, or a line without a prompt.
    """
    if path.suffix == ".txt":
        prompts = [
            GenerationPrompt(f"{place:05d}", check_prompt(line, label), "", {})
            for place, (label, line) in enumerate(text_lines(path))
        ]
    elif path.suffix == ".jsonl":
        prompts = [
            GenerationPrompt(
                id=check_id(entry.text("id", f"{place:05d}"), label),
                prompt=check_prompt(entry.text("prompt"), label),
                category=entry.text("category", ""),
                metadata=entry.entries,
            )
            for place, (label, entry) in enumerate(json_lines(path))
        ]
    else:
        raise UserError(
            f"a list of prompts must be a .txt or .jsonl file; got {str(path)!r}. Rename it, or "
            "name the suite that it belongs to"
        )
    return check_prompts(prompts, repr(str(path)))
