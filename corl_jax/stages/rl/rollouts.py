"""Rollouts of a step: prompts placed on the mesh, and samples drawn from them.

On a mesh every device reads the prompts of its own samples. Where there are fewer prompts than
devices, each prompt is repeated ``f`` times with ``G / f`` samples each, so that rows of a batch are
``[B * f, G / f]``; see ``core.sharding.Sharder.prompt_repeats``.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Params, PromptBatch, Record, Rollout
from corl_jax.data.records import require
from corl_jax.engine.device_clock import DEVICE_CLOCK, DeviceTime
from corl_jax.engine.state import TrainState, merge
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.sampling.plans import behind_plans
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.parts import PARTS
from corl_jax.stages.setup import Setup
from corl_jax.tasks.base import stack_target_images


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """Rollouts of a step; dispatched to the devices, which may still be computing them.

    Attributes:
      step: the step that they are for.
      prompts: part to its prompts, on the mesh; see ``parts.PARTS``.
      rollouts: part to its samples, on the mesh.
      times: part to what the devices took to sample them, those included that were replaced.
    """

    step: int
    prompts: dict[str, PromptBatch]
    rollouts: dict[str, Rollout]
    times: dict[str, tuple[DeviceTime, ...]] = dataclasses.field(default_factory=dict)

    def with_times_of(self, other: RolloutBatch) -> RolloutBatch:
        """The same batch, with the times of ``other`` beside those it has."""
        times = {
            part: (*self.times.get(part, ()), *other.times.get(part, ()))
            for part in self.times | other.times
        }
        return dataclasses.replace(self, times=times)

    def seconds(self) -> dict[str, float]:
        """Columns with the seconds of each part's rollouts; waits for them."""
        return {
            f"time/rollout_{part}": sum(timing.seconds() for timing in timings)
            for part, timings in self.times.items()
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

    def check_length(self, part: str) -> None:
        """Checks the widths of a part.

        Raises:
          UserError: prompt and completion are longer together than the policy has positions.
        """
        self.setup.check_length(_sequence_lengths(self.setup, self.cfg, part))

    def step_rollouts(self, state: TrainState, params: Params, raw: Any, step: int) -> RolloutBatch:
        """The rollouts of a step.

        With ``one_step_off_policy`` they were dispatched a step ago, before the last update, and the
        next step's are dispatched now. A resumed run samples those that it lost from the parameters
        that its state kept, the same bit for bit.

        Args:
          params: of the policy, as ``Setup.rollout_params`` returns them.
          raw: the prompts of the step by part; one step off policy, also those of the next.
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
        """Dispatches the rollouts of all parts.

        Args:
          prompts: part to this process's prompts, on the host.
          stream_prefix: of the random stream, so that samples outside training have other keys.
        """
        # The host's rows of all processes become one batch on the mesh.
        on_mesh = {
            part: PromptBatch(self.setup.sharder.put_batch(batch.prompts), batch.records)
            for part, batch in prompts.items()
        }

        # Nothing here waits: rollouts are futures until somebody reads them.
        sampler_params = self.quantize(params)
        rollouts: dict[str, Rollout] = {}
        times: dict[str, tuple[DeviceTime, ...]] = {}
        for part in filter(on_mesh.__contains__, PARTS):
            begin = time.perf_counter()
            if part == "image" and "plan" in rollouts:
                on_mesh[part] = self.prompts_behind_plans(on_mesh[part], rollouts["plan"])
            if part == "check":
                on_mesh[part] = self.with_drawn_pictures(on_mesh[part], rollouts["image"])
            rollouts[part] = self.sample_part(
                sampler_params, part, on_mesh[part], step, stream_prefix
            )
            if self.cfg.has_external(part):
                rollouts[part] = self.with_real_pictures(params, on_mesh[part], rollouts[part])
            times[part] = (DEVICE_CLOCK.time(begin, rollouts[part].log_probs),)
        return RolloutBatch(step, on_mesh, rollouts, times)

    def sample_part(
        self, params: Params, part: str, batch: PromptBatch, step: int, stream_prefix: str = ""
    ) -> Rollout:
        """``G`` samples per prompt of one part, from parameters that ``quantize`` returned.

        The key of a sample depends on (seed, part, step, its number within the step) alone.
        """
        # Keys are numbered over the whole step, so that they do not depend on the mesh.
        rows = batch.prompts.tokens.shape[0]
        keys = sample_keys(stream(self.seed, stream_prefix + part, step), self.samples(part))
        keys = keys.reshape(rows, -1)
        sampling = self.cfg.sampling_params(self.policy, part)
        if PARTS[part].modality == "image":
            return self.policy.sample_images(
                params, batch.prompts, keys, sampling, self.cfg.rollout.uses_guidance
            )
        return self.policy.sample_text(
            params, batch.prompts, keys, sampling, self.cfg.text_length(part)
        )

    def prompts_behind_plans(self, openings: PromptBatch, plans: Rollout) -> PromptBatch:
        """The prompts of images, one for each plan: ``B * G`` rows."""
        prompts = self.setup.sharder.put_batch(
            behind_plans(openings.prompts, plans, self.setup.tokenizer)
        )
        samples = plans.tokens.shape[1]
        return PromptBatch(prompts, tuple(r for r in openings.records for _ in range(samples)))

    def with_drawn_pictures(self, questions: PromptBatch, images: Rollout) -> PromptBatch:
        """Questions about the first pictures of the step."""
        pictures = self.setup.sharder.put_batch(
            drawn_pictures(images.pixels, self.samples("check"))
        )
        prompts = dataclasses.replace(questions.prompts, images=pictures)
        return PromptBatch(prompts, questions.records)

    def with_real_pictures(self, params: Params, batch: PromptBatch, rollout: Rollout) -> Rollout:
        """``rollout`` with the record's own picture as the last sample of every group.

        Args:
          params: of the policy, as they are before ``quantize``.
        """
        images = stack_target_images(batch.records, self.setup.cfg.image_size)
        own = self.cfg.own_samples("image", self.samples("image"))
        is_external = self.local_values("image", ~own)
        images, is_external = self.setup.sharder.put_batch((images, is_external))
        return self.setup.rollout_policy.with_pictures(params, rollout, images, is_external)

    def log_probs(
        self, params: Params, part: str, batch: PromptBatch, rollout: Rollout
    ) -> Float[Array, "B G T"]:
        """Teacher-forced log-probs of a rollout under ``params``, in the update's micro-batches."""
        policy = self.setup.policy_for(params)
        return policy.log_probs(
            params,
            batch.prompts,
            rollout,
            self.cfg.sampling_params(policy, part),
            self._log_prob_options(part),
        )

    def log_probs_and_entropies(
        self, params: Params, part: str, batch: PromptBatch, rollout: Rollout
    ) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
        """``log_probs``, and the entropy of the distribution of every token."""
        policy = self.setup.policy_for(params)
        return policy.log_probs_and_entropies(
            params,
            batch.prompts,
            rollout,
            self.cfg.sampling_params(policy, part),
            self._log_prob_options(part),
        )

    def _log_prob_options(self, part: str) -> LogProbOptions:
        options = self.cfg.log_prob_options(part)
        return dataclasses.replace(options, microbatches=self.microbatches)

    def prompt_repeats(self, prompts: int) -> int:
        """How often a step repeats each prompt, ``f``."""
        return self.setup.sharder.prompt_repeats(
            prompts, self.cfg.rollout.group_size, self.microbatches
        )

    def samples(self, part: str) -> int:
        """Samples of a step, ``N = B * G``."""
        return self.prompts(part) * self.cfg.rollout.group_size

    def prompts(self, part: str) -> int:
        """Prompts of a step, ``B``."""
        is_check = part == "check"
        return self.cfg.check.prompts if is_check else self.cfg.rollout.prompts[PARTS[part].task]

    def rows_per_step(self, part: str) -> int:
        """Rows of a step, ``B * f``; ``B * G`` where each sample has a prompt of its own."""
        # Images behind their plans, and verdicts on images.
        if part == "check" or (part == "image" and self.cfg.plan.length):
            return self.samples(part)
        prompts = self.prompts(part)
        return prompts * self.prompt_repeats(prompts)

    def local_values(self, part: str, values: np.ndarray) -> np.ndarray:
        """This process's rows of per-sample values: ``[N, ...]`` to ``[B * f, G / f, ...]``."""
        rows = self.rows_per_step(part)
        by_row = values.reshape(rows, -1, *values.shape[1:])
        return by_row[np.asarray(self.setup.sharder.local_row_ids(rows))]

    def row_prompts(self, part: str) -> list[int]:
        """Number of the prompt of each of this process's rows."""
        rows = self.rows_per_step(part)
        rows_per_prompt = rows // self.prompts(part)
        return [row // rows_per_prompt for row in self.setup.sharder.local_row_ids(rows)]

    def local_prompt_ids(self, prompts: int) -> list[int]:
        """Numbers of the prompts that this process reads, each as often as it has rows of it."""
        repeats = self.prompt_repeats(prompts)
        rows = self.setup.sharder.local_row_ids(prompts * repeats)
        return [row // repeats for row in rows]


@functools.partial(jax.jit, static_argnums=1)
def drawn_pictures(pixels: UInt8[Array, "B G H W 3"], count: int) -> Float[Array, "count H W 3"]:
    """The first pictures of a rollout as the vision tower reads them, in [-1, 1]."""
    first = pixels.reshape(-1, *pixels.shape[2:])[:count]
    return (first.astype(jnp.float32) / 255 - 0.5) / 0.5


def check_external_image(record: Record) -> None:
    """Raises UserError about a record without a picture that could be a sample."""
    require(record, "config.rl.external.image='record_image'", ("image",))


def _sequence_lengths(setup: Setup, cfg: RlConfig, part: str) -> dict[str, int]:
    """Tokens of prompt and completion of a part, by config key."""
    c = cfg.rollout
    plan_length = {"config.rl.plan.length": cfg.plan.length} if cfg.plan.length else {}
    if part == "image":
        return {
            "config.rl.rollout.image_prompt_length": c.image_prompt_length,
            **plan_length,
            "an image": setup.cfg.image_tokens,
        }
    if part == "plan":
        return {"config.rl.plan.prompt_length": cfg.plan.prompt_length, **plan_length}
    if part == "check":
        return {
            "config.rl.check.prompt_length": cfg.check.prompt_length,
            "config.rl.rollout.completion_length": c.completion_length,
        }
    return {
        "config.rl.rollout.text_prompt_length": c.text_prompt_length,
        "config.rl.rollout.completion_length": c.completion_length,
    }
