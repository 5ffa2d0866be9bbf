"""Completions during training, for the report: the newest steps of ``completions/``, bounded in size."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from corl_jax.data.image_files import load_image
from corl_jax.engine.completions import SavedSample, group_samples, read_completions, saved_steps
from corl_jax.evals.gallery import png_base64

SHOWN_STEPS, SHOWN_GROUPS, SHOWN_SAMPLES = 3, 4, 8
"""The newest steps, the first prompts of a step, and the first samples of a prompt that are shown."""
LARGEST_SIDE = 160
"""Most pixels of a side of a picture on the page."""
LONGEST_TEXT = 2000
"""Most characters of an answer."""


@dataclasses.dataclass(frozen=True)
class ShownSample:
    """One sample as the page has it.

    Attributes:
      png: the picture in base64; "" for an answer.
      text: the answer; "" for a picture.
      plan: that a picture was drawn behind; "" where there is none.
      rewards: by name, as texts.
      reward, advantage: as texts.
      is_truncated: of an answer.
      is_external: whether the picture is the record's own, not drawn by the policy.
    """

    png: str
    text: str
    plan: str
    rewards: dict[str, str]
    reward: str
    advantage: str
    is_truncated: bool
    is_external: bool


@dataclasses.dataclass(frozen=True)
class ShownGroup:
    """The samples of one prompt.

    Attributes:
      prompt: caption or question.
      prompt_png: the picture asked about in base64; "" where there is none.
      reference_answer: of a question.
      samples: their pictures or answers.
    """

    task: str
    prompt: str
    prompt_png: str
    reference_answer: str
    samples: tuple[ShownSample, ...]


@dataclasses.dataclass(frozen=True)
class ShownStep:
    """What the page shows of a step."""

    step: int
    groups: tuple[ShownGroup, ...]


def read_shown_steps(folder: pathlib.Path) -> list[ShownStep]:
    """The newest steps that a work directory has completions of, the newest one first.

    Raises:
      UserError: a file is damaged or lies outside of the work directory.
    """
    return [
        ShownStep(step, _groups(read_completions(folder, step)))
        for step in reversed(saved_steps(folder)[-SHOWN_STEPS:])
    ]


def _groups(samples: list[SavedSample]) -> tuple[ShownGroup, ...]:
    # As many prompts of each task are shown.
    shown = []
    for task in ("image", "text"):
        shown += group_samples(samples, task)[: SHOWN_GROUPS // 2]
    return tuple(_group(group) for group in shown)


def _group(samples: Sequence[SavedSample]) -> ShownGroup:
    first = samples[0]
    return ShownGroup(
        task=first.task,
        prompt=_shorten(first.prompt),
        prompt_png=_small_png(first.prompt_image),
        reference_answer=_shorten(first.reference_answer),
        samples=tuple(_sample(sample) for sample in samples[:SHOWN_SAMPLES]),
    )


def _sample(sample: SavedSample) -> ShownSample:
    return ShownSample(
        png=_small_png(sample.image),
        text=_shorten(sample.completion or ""),
        plan=_shorten(sample.plan or ""),
        rewards={name: _number(value) for name, value in sample.rewards.items()},
        reward=_number(sample.reward),
        advantage=_number(sample.advantage, sign="+"),
        is_truncated=sample.is_truncated,
        is_external=sample.is_external,
    )


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3g}" if math.isfinite(value) else "not finite"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " ..."


def _small_png(path: pathlib.Path | None) -> str:
    """A picture of at most ``LARGEST_SIDE`` pixels a side, in base64; "" for none."""
    if path is None:
        return ""
    return png_base64(load_image(path, "completions"), LARGEST_SIDE)
