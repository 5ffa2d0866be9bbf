"""Samples of a run: galleries and answers before and after it, and sheets from training."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corl_jax.core.checks.paths import check_inside
from corl_jax.core.errors import UserError
from corl_jax.engine.grid_files import read_cells
from corl_jax.evals.gallery import png_base64

SHEETS = 12
"""Most sample sheets that are shown; they are evenly spread over the run."""
SMALL = 128
"""Most pixels of a side of a picture of a sheet."""
SIDES = ("before", "after")


def pair_galleries(galleries: Mapping[str, Any]) -> dict[str, Any] | None:
    """Prompts with their pictures by side; None without a gallery.

    Args:
      galleries: content of ``gallery_SIDE.json`` by side; one side may be missing.

    Raises:
      UserError: the sides have different prompts.
    """
    if not galleries:
        return None
    rows = _pair({side: gallery["prompts"] for side, gallery in galleries.items()}, "prompt")
    prompts = [
        {
            "prompt": next(iter(row.values()))["prompt"],
            "pictures": {side: entry["pictures"] for side, entry in row.items()},
        }
        for row in rows
    ]
    pictures = [it for row in prompts for shown in row["pictures"].values() for it in shown]
    return {
        "sides": list(galleries),
        # Both sides were sampled with the guidance scale of training.
        "guidance": next(iter(galleries.values()))["guidance"],
        "has_rewards": any("reward" in picture for picture in pictures),
        "prompts": prompts,
    }


def pair_answers(transcripts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Questions with up to four answers each: greedy and sampled, before and after the run.

    Args:
      transcripts: content of ``answers_SIDE.json`` by side; one side may be missing.

    Raises:
      UserError: the sides have different questions.
    """
    questions = []
    for row in _pair(transcripts, "question"):
        entry = next(iter(row.values()))
        # The options of a question follow on lines of their own.
        question, *options = entry["question"].split("\n")
        answers = {
            f"{side}, {decoding}": answer[decoding]
            for side, answer in row.items()
            for decoding in ("greedy", "sampled")
        }
        questions.append(entry | {"question": question, "options": options, "answers": answers})
    return questions


def _pair(sides: Mapping[str, Sequence[Any]], key: str) -> list[dict[str, Any]]:
    """The entries of both sides, one row for each ``key``."""
    keys = {side: [entry[key] for entry in entries] for side, entries in sides.items()}
    if len({tuple(texts) for texts in keys.values()}) > 1:
        raise UserError(
            f"samples/*_before.json and samples/*_after.json must have the same {key}s in the "
            "same order; got others. Take both files of one run, or remove one of them"
        )
    rows = zip(*sides.values(), strict=True)
    return [dict(zip(sides, row, strict=True)) for row in rows]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Pictures that were sampled in one step of training.

    Attributes:
      title: the step, and what the pictures are.
      png: the whole sheet in base64; "" where its pictures are known one by one.
      groups: pictures under one caption: the caption, then note and PNG of each.
    """

    title: str
    png: str
    groups: list[tuple[str, list[tuple[str, str]]]]


def read_sheets(folder: pathlib.Path) -> list[Sheet]:
    """Sheets that were written in training, evenly spread over the run.

    Args:
      folder: the work directory.

    Raises:
      UserError: a sheet is a link to a file outside of it, or cannot be read.
    """
    paths = sorted((folder / "samples").glob("step_*.png"))
    if len(paths) > SHEETS:
        # The first and the last sheet are always among them.
        paths = [paths[round(i * (len(paths) - 1) / (SHEETS - 1))] for i in range(SHEETS)]

    sheets = []
    for path in paths:
        check_inside(path, folder)
        # step_000025_rollout.png
        step, _, name = path.stem.removeprefix("step_").partition("_")
        title = f"step {int(step)}: {name}" if step.isdigit() else path.stem
        groups = [
            (caption, [(note, png_base64(np.asarray(image), SMALL)) for _, note, image in cells])
            for caption, cells in itertools.groupby(read_cells(path), lambda cell: cell[0])
        ]
        # Sheets of older runs are only pictures of themselves.
        png = "" if groups else base64.b64encode(path.read_bytes()).decode()
        sheets.append(Sheet(title, png, groups))
    return sheets
