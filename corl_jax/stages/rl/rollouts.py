"""Rollouts of a step: prompts placed on the mesh, and samples drawn from them.

On a mesh every device reads the prompts of its own samples. Where there are fewer prompts than
devices, each prompt is repeated ``f`` times with ``G / f`` samples each, so that rows of a batch are
``[B * f, G / f]``; see ``core.sharding.Sharder.prompt_repeats``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Params, PromptBatch, Record, Rollout
from corl_jax.data.records import require
from corl_jax.engine.device_clock import DEVICE_CLOCK, DeviceTime
from corl_jax.engine.state import TrainState, merge
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.setup import Setup
from corl_jax.tasks.base import stack_target_images


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """Rollouts of a step; dispatched to the devices, which may still be computing them.

    Attributes:
      step: the step that they are for.
      prompts: task to its prompts, on the mesh.
      rollouts: task to its samples, on the mesh.
      times: task to what the devices took to sample them, those included that were replaced.
    """

    step: int
    prompts: dict[str, PromptBatch]
    rollouts: dict[str, Rollout]
    times: dict[str, tuple[DeviceTime, ...]] = dataclasses.field(default_factory=dict)

    def with_times_of(self, other: RolloutBatch) -> RolloutBatch:
        """The same batch, with the times of ``other`` beside those it has."""
        times = {
            task: (*self.times.get(task, ()), *other.times.get(task, ()))
            for task in self.times | other.times
        }
        return dataclasses.replace(self, times=times)

    def seconds(self) -> dict[str, float]:
        """Columns with the seconds of each task's rollouts; waits for them."""
        return {
            f"time/rollout_{task}": sum(timing.seconds() for timing in timings)
            for task, timings in self.times.items()
        }


class RolloutSampler:
    """Samples ``group_size`` completions per prompt.

    Attributes:
      policy: the programs that sample, over the parameters that ``quantize`` returns.
      prefetched: with ``one_step_off_policy`` the rollouts of the next step.
    """

    def __init__(
        self, setup: Setup, cfg: RlConfig, seed: int, total_steps: int, microbatches: int = 1
    ):
        """``total_steps`` of the run; ``microbatches`` of the update that gets the rollouts."""
        self.setup, self.cfg, self.seed = setup, cfg, seed
        self.total_steps, self.microbatches = total_steps, microbatches
        self.policy, self.quantize = quantized_policy(
            setup.rollout_policy,
            setup.rollout_param_specs,
            weights_dtype=cfg.rollout.weights_dtype,
            cache_dtype=cfg.rollout.cache_dtype,
        )
        self.prefetched: RolloutBatch | None = None

    def check_length(self, task: str) -> None:
        """Checks the widths of a task.

        Raises:
          UserError: prompt and completion are longer together than the policy has positions.
        """
        self.setup.check_length(_sequence_lengths(self.setup, self.cfg, task))

    def step_rollouts(self, state: TrainState, params: Params, raw: Any, step: int) -> RolloutBatch:
        """The rollouts of a step.

        With ``one_step_off_policy`` they were dispatched a step ago, before the last update, and the
        next step's are dispatched now. A resumed run samples those that it lost from the parameters
        that its state kept, the same bit for bit.

        Args:
          params: of the policy, as ``Setup.rollout_params`` returns them.
          raw: the prompts of the step by task; one step off policy, also those of the next.
        """
        if not self.cfg.rollout.one_step_off_policy:
            return self.sample_batch(params, raw, step)

        # A new or resumed run has nothing prefetched: sample what the step before would have.
        prompts, next_prompts = raw
        batch, self.prefetched = self.prefetched, None
        if batch is None or batch.step != step:
            previous = self.setup.rollout_params(merge(state.previous, state.frozen))
            batch = self.sample_batch(previous, prompts, step)
        if step + 1 < self.total_steps:
            self.prefetched = self.sample_batch(params, next_prompts, step + 1)
        return batch

    def sample_batch(
        self,
        params: Params,
        prompts: Mapping[str, PromptBatch],
        step: int,
        stream_prefix: str = "",
    ) -> RolloutBatch:
        """Dispatches the rollouts of all tasks.

        Args:
          prompts: task to this process's prompts, on the host.
          stream_prefix: of the random stream, so that samples outside training have other keys.
        """
        # The host's rows of all processes become one batch on the mesh.
        on_mesh = {
            task: PromptBatch(self.setup.sharder.put_batch(batch.prompts), batch.records)
            for task, batch in prompts.items()
        }

        # Nothing here waits: rollouts are futures until somebody reads them.
        sampler_params = self.quantize(params)
        rollouts: dict[str, Rollout] = {}
        times: dict[str, tuple[DeviceTime, ...]] = {}
        for task, batch in on_mesh.items():
            begin = time.perf_counter()
            rollouts[task] = self.sample_task(sampler_params, task, batch, step, stream_prefix)
            if self.cfg.has_external(task):
                rollouts[task] = self.with_real_pictures(params, batch, rollouts[task])
            times[task] = (DEVICE_CLOCK.time(begin, rollouts[task].log_probs),)
        return RolloutBatch(step, on_mesh, rollouts, times)

    def sample_task(
        self, params: Params, task: str, batch: PromptBatch, step: int, stream_prefix: str = ""
    ) -> Rollout:
        """``G`` samples per prompt of one task, from parameters that ``quantize`` returned.

        The key of a sample depends on (seed, task, step, its number within the step) alone.
        """
        # Keys are numbered over the whole step, so that they do not depend on the mesh.
        rows = batch.prompts.tokens.shape[0]
        samples = self.cfg.rollout.prompts[task] * self.cfg.rollout.group_size
        keys = sample_keys(stream(self.seed, stream_prefix + task, step), samples)
        keys = keys.reshape(rows, -1)
        sampling = self.cfg.sampling_params(self.policy, task)
        if task == "image":
            return self.policy.sample_images(
                params, batch.prompts, keys, sampling, self.cfg.rollout.uses_guidance
            )
        return self.policy.sample_text(
            params, batch.prompts, keys, sampling, self.cfg.rollout.completion_length
        )

    def with_real_pictures(self, params: Params, batch: PromptBatch, rollout: Rollout) -> Rollout:
        """``rollout`` with the record's own picture as the last sample of every group.

        Args:
          params: of the policy, as they are before ``quantize``.
        """
        images = stack_target_images(batch.records, self.setup.cfg.image_size)
        samples = self.cfg.rollout.prompts["image"] * self.cfg.rollout.group_size
        is_external = self.local_values("image", ~self.cfg.own_samples("image", samples))
        images, is_external = self.setup.sharder.put_batch((images, is_external))
        return self.setup.rollout_policy.with_pictures(params, rollout, images, is_external)

    def log_probs(
        self, params: Params, task: str, batch: PromptBatch, rollout: Rollout
    ) -> Float[Array, "B G T"]:
        """Teacher-forced log-probs of a rollout under ``params``, in the update's micro-batches."""
        policy = self.setup.policy_for(params)
        return policy.log_probs(
            params,
            batch.prompts,
            rollout,
            self.cfg.sampling_params(policy, task),
            self._log_prob_options(task),
        )

    def log_probs_and_entropies(
        self, params: Params, task: str, batch: PromptBatch, rollout: Rollout
    ) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
        """``log_probs``, and the entropy of the distribution of every token."""
        policy = self.setup.policy_for(params)
        return policy.log_probs_and_entropies(
            params,
            batch.prompts,
            rollout,
            self.cfg.sampling_params(policy, task),
            self._log_prob_options(task),
        )

    def _log_prob_options(self, task: str) -> LogProbOptions:
        options = self.cfg.log_prob_options(task)
        return dataclasses.replace(options, microbatches=self.microbatches)

    def prompt_repeats(self, prompts: int) -> int:
        """How often a step repeats each prompt, ``f``."""
        return self.setup.sharder.prompt_repeats(
            prompts, self.cfg.rollout.group_size, self.microbatches
        )

    def rows_per_step(self, task: str) -> int:
        """Rows of a step, ``B * f``."""
        prompts = self.cfg.rollout.prompts[task]
        return prompts * self.prompt_repeats(prompts)

    def local_values(self, task: str, values: np.ndarray) -> np.ndarray:
        """This process's rows of per-sample values: ``[N, ...]`` to ``[B * f, G / f, ...]``."""
        rows = self.rows_per_step(task)
        by_row = values.reshape(rows, -1, *values.shape[1:])
        return by_row[np.asarray(self.setup.sharder.local_row_ids(rows))]

    def local_prompt_ids(self, prompts: int) -> list[int]:
        """Numbers of the prompts that this process reads, each as often as it has rows of it."""
        repeats = self.prompt_repeats(prompts)
        rows = self.setup.sharder.local_row_ids(prompts * repeats)
        return [row // repeats for row in rows]


def check_external_image(record: Record) -> None:
    """Raises UserError about a record without a picture that could be a sample."""
    require(record, "config.rl.external.image='record_image'", ("image",))


def _sequence_lengths(setup: Setup, cfg: RlConfig, task: str) -> dict[str, int]:
    """Tokens of prompt and completion of a task, by config key."""
    c = cfg.rollout
    if task == "image":
        return {
            "config.rl.rollout.image_prompt_length": c.image_prompt_length,
            "an image": setup.cfg.image_tokens,
        }
    return {
        "config.rl.rollout.text_prompt_length": c.text_prompt_length,
        "config.rl.rollout.completion_length": c.completion_length,
    }
