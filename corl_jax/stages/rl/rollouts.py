"""Rollouts of a step: how prompts lie on the mesh, how samples are drawn from them, early ones where asked for.

In: parameters and asked records. Out: ``RolloutBatch``, begun on the device and maybe not over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Params, PromptBatch, Rollout
from corl_jax.engine.state import TrainState, merge
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.stages.rl.config import RlSettings
from corl_jax.stages.setup import Setup


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """Rollouts of ``step``, begun and maybe not over: by task what was asked, on the mesh, and what is written."""

    step: int
    asked: dict[str, PromptBatch]
    rollouts: dict[str, Rollout]


class RolloutSampler:
    """Draws what a policy is trained on, ``settings.group`` samples per prompt.

    Attributes:
      microbatches: of the update that takes them.
      ahead: with ``stale_rollouts`` those of the next step, begun early.
    """

    def __init__(
        self, parts: Setup, settings: RlSettings, seed: int, steps: int, microbatches: int = 1
    ):
        self.parts, self.settings, self.seed, self.steps = parts, settings, seed, steps
        self.microbatches = microbatches
        held = {"weights": settings.rollout_weights, "cache": settings.rollout_cache}
        self.sampler, self.lighten = quantized_policy(parts.sampler, parts.rollout, **held)
        self.ahead: RolloutBatch | None = None

    def step_rollouts(self, state: TrainState, params: Params, raw: Any, step: int) -> RolloutBatch:
        """The rollouts of a step, from ``params``.

        Stale ones were begun a step ago, before the last update, and the next step's are begun now. A resumed run makes
        those that it lost from the parameters that its state kept, the same bit for bit.
        """
        if not self.settings.stale_rollouts:
            return self.sample_batch(params, raw, step)
        now, following = raw
        drawn, self.ahead = self.ahead, None
        if drawn is None or drawn.step != step:
            drawn = self.sample_batch(
                self.parts.for_rollout(merge(state.previous, state.frozen)), now, step
            )
        if step + 1 < self.steps:
            self.ahead = self.sample_batch(params, following, step + 1)
        return drawn

    def sample_batch(
        self, params: Params, raw: Mapping[str, PromptBatch], step: int, name: str = ""
    ) -> RolloutBatch:
        """Asks the batch of ``step`` and begins its rollouts; ``name`` makes their keys others than training's."""
        asked = {
            task: PromptBatch(self.parts.sharder.put_batch(one.prompts), one.records)
            for task, one in raw.items()
        }
        light = self.lighten(params)
        return RolloutBatch(
            step,
            asked,
            {task: self.sample(light, task, one, step, name) for task, one in asked.items()},
        )

    def sample(
        self, params: Params, task: str, asked: PromptBatch, step: int, name: str = ""
    ) -> Rollout:
        """``G`` samples per prompt, from parameters that ``lighten`` made.

        The key of a sample depends on (seed, task, step, its number in the step).
        """
        s, sampler = self.settings, self.sampler
        rows, samples = asked.prompts.tokens.shape[0], s.prompts(task) * s.group
        keys = sample_keys(stream(self.seed, name + task, step), samples).reshape(rows, -1)
        if task == "image":
            return sampler.sample_images(
                params, asked.prompts, keys, s.sampling(sampler, task), s.guided_sampler
            )
        return sampler.sample_text(
            params, asked.prompts, keys, s.sampling(sampler, task), s.completion_length
        )

    def log_probs(
        self, params: Params, task: str, asked: PromptBatch, rollout: Rollout
    ) -> jax.Array:
        """Teacher-forced log-probs of a rollout under ``params``."""
        sampler = self.parts.reader(params)
        return sampler.log_probs(
            params,
            asked.prompts,
            rollout,
            self.settings.sampling(sampler, task),
            **self.settings.scoring(task),
        )

    def prompt_repeats(self, prompts: int) -> int:
        """How often a step repeats each prompt, with fewer samples each, so that every device has its own."""
        return self.parts.sharder.prompt_repeats(prompts, self.settings.group, self.microbatches)

    def rows_of(self, task: str, values: np.ndarray) -> np.ndarray:
        """This process's rows ``[B * f, G / f, ...]`` of what there is one of per sample, ``[N, ...]``."""
        rows = self.rows_in(task)
        return values.reshape(rows, -1, *values.shape[1:])[
            np.asarray(self.parts.sharder.local_row_ids(rows))
        ]

    def rows_in(self, task: str) -> int:
        """Rows of a step, ``B * f``."""
        prompts = self.settings.prompts(task)
        return prompts * self.prompt_repeats(prompts)

    def share(self, prompts: int) -> list[int]:
        """The prompts that this process reads, of a step's ``prompts``, each as often as it has rows of it."""
        copies = self.prompt_repeats(prompts)
        return [row // copies for row in self.parts.sharder.local_row_ids(prompts * copies)]
