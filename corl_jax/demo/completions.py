"""Reads ``completions/step_*.jsonl`` of a work directory: what a step wrote and what it was worth."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.checks.paths import check_inside, user_path
from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image
from corl_jax.demo.answering import AnswerParts, split_answer
from corl_jax.demo.rendering import thumbnail

ADVICE = "repair or remove the file"
MOST_GROUPS = 8
"""Groups of a task that are shown; a step at full size has more than fit on a page."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """One line of a file.

    Attributes:
      task: ``image`` or ``text``.
      record_id: of the record whose prompt it follows.
      prompt: caption or question.
      sample: number within its group.
      parts: the answer, for the task ``text``.
      picture: file of the picture drawn, or of the one that the question is about.
      rewards: by name; None where a reward gave none.
      reward, advantage: of the sample, None where they are not known.
      reference_answer: the right answer, "" where there is none.
    """

    task: str
    record_id: str
    prompt: str
    sample: int
    parts: AnswerParts
    picture: pathlib.Path | None
    rewards: Mapping[str, float | None]
    reward: float | None
    advantage: float | None
    reference_answer: str

    def pixels(self) -> np.ndarray | None:
        """A thumbnail of the picture, uint8 ``[H, W, 3]``; None where there is none.

        Raises:
          UserError: the file is missing or damaged.
        """
        return None if self.picture is None else thumbnail(load_image(self.picture))


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one prompt, in order."""

    prompt: str
    completions: tuple[Completion, ...]


def read_completions(folder: pathlib.Path, step: int) -> list[Completion]:
    """The samples of a step.

    Args:
      folder: the work directory.
      step: one with a file.

    Raises:
      UserError: the file is missing, or a line is not as a run writes it.
    """
    path = folder / "completions" / f"step_{step:06d}.jsonl"
    check_inside(path, folder)
    completions = []
    for number, line in read_lines(path):
        # A run that is going on may be in the middle of its last line.
        if not line.endswith(b"\n"):
            break
        completions.append(_parse(line, f"line {number} of {str(path)!r}", path.parent))
    return completions


def make_groups(completions: Sequence[Completion], task: str) -> list[Group]:
    """Samples of one task by their prompts, in the order of the file."""
    chosen = [completion for completion in completions if completion.task == task]
    # A record may come twice in a step, and then its samples are numbered anew.
    starts = itertools.accumulate(completion.sample == 0 for completion in chosen)
    keyed = zip(starts, chosen, strict=True)
    groups = []
    for _, members in itertools.groupby(keyed, lambda pair: (pair[0], pair[1].record_id)):
        samples = tuple(completion for _, completion in members)
        groups.append(Group(samples[0].prompt, samples))
    return groups


def _parse(line: bytes, label: str, folder: pathlib.Path) -> Completion:
    row = JsonObject.check(parse_json(line, label, ADVICE), label, ADVICE)
    task = row.text("task")
    if task not in ("image", "text"):
        row.refuse("task", "'image' or 'text'")

    rewards = row.optional_block("rewards")
    name = row.optional_text("image" if task == "image" else "prompt_image")
    text = "" if task == "image" else row.text("completion")
    return Completion(
        task=task,
        record_id=row.text("record_id"),
        prompt=row.text("prompt"),
        sample=row.integer("sample"),
        parts=split_answer(text, bool(row.has("truncated") and row.boolean("truncated"))),
        picture=None if name is None else _beside(folder, name, label),
        rewards={name: rewards.optional_number(name) for name in rewards.entries},
        reward=row.optional_number("reward"),
        advantage=row.optional_number("advantage"),
        reference_answer=row.optional_text("reference_answer") or "",
    )


def _beside(folder: pathlib.Path, name: str, label: str) -> pathlib.Path:
    """The file ``name`` in ``folder`` and nowhere else."""
    if name != pathlib.PurePath(name).name:
        raise UserError(f"the picture in {label} must be a file beside it; got {name!r}; {ADVICE}")
    path = user_path(folder / name, "the picture")
    check_inside(path, folder)
    return path
