"""Training steps side by side: what a side must offer, and how its phases are timed. In: sides; out: seconds.

A step is one rollout of each task and one update on both. Nothing ends early: all answers have full length.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.advantages import normalizations

PHASES = ("rollout_image", "rollout_text", "update", "total")
REST = 0.5
"""Seconds before a turn: threads of the side before it, which wait for work awake, go to sleep."""
GUIDANCE = 5.0
LEARNING_RATE, CLIP_NORM = 4e-6, 1.0


@dataclasses.dataclass(frozen=True)
class Work:
    """How much a step does: ``prompts`` of each task, ``group`` samples of each, answers of ``answer`` tokens. There is
    no KL term, so no reference is scored. Gradients are added over ``microbatches`` parts of ours (on several devices
    so many times fewer) and ``torch_parts`` of torch's, which keeps both in memory. Ours holds logits of ``chunk``
    tokens of a completion at a time (0: of all), keeps of every layer what ``remat`` (in ``models.layers``) names, and
    learns ``unroll`` layers per turn of a loop.
    """

    prompts: int = 2
    group: int = 8
    answer: int = 64
    microbatches: int = 1
    torch_parts: int = 1
    chunk: int = 0
    remat: str = "none"
    unroll: int = 4

    @property
    def samples(self) -> int:
        """Pictures of a step, and as many answers."""
        return self.prompts * self.group

    def advantages(self) -> np.ndarray:
        """``[B, G]`` as if of some reward: the same for both tasks and every side."""
        rewards = np.random.default_rng(0).uniform(size=(self.prompts, self.group))
        return np.array(normalizations["group"](jnp.asarray(rewards)), np.float32)


class Step(Protocol):
    """One side. Every method returns when its work is done; ``turn`` makes the samples differ from turn to turn."""

    def sample_images(self, turn: int) -> Any:
        """Rollout of pictures, pixels included."""
        ...

    def sample_text(self, turn: int) -> Any:
        """Rollout of answers."""
        ...

    def update(self, image: Any, text: Any) -> Any:
        """Gradient of both tasks' losses on these rollouts, and AdamW."""
        ...


def timed_step(side: Step, turn: int) -> dict[str, float]:
    """Seconds of one step by phase."""
    start = time.perf_counter()
    image = side.sample_images(turn)
    drawn = time.perf_counter()
    text = side.sample_text(turn)
    written = time.perf_counter()
    side.update(image, text)
    end = time.perf_counter()
    return dict(
        zip(PHASES, (drawn - start, written - drawn, end - written, end - start), strict=True)
    )


def in_turns(
    sides: Mapping[str, Step], repeats: int, log: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Median seconds by side and phase over ``repeats`` steps of each, one side after the other."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            time.sleep(REST)
            found[name].append(timed_step(side, turn + 1))
            log(f"turn {turn + 1} of {repeats}, {name}: {found[name][-1]['total']:.2f} s")
    return {name: medians(turns) for name, turns in found.items()}


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Phase by phase."""
    return {phase: statistics.median(turn[phase] for turn in turns) for phase in PHASES}
