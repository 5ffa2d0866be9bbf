"""Rewards of held-out prompts of both tasks, whichever is trained.

A run of one task shows here what it does to the other (in CoRL's pilot study, it costs).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from corl_jax.core.types import Params, Record
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.sources.base import MemorySource, RecordSource
from corl_jax.data.unusable_records import Check, usable_rows
from corl_jax.engine.alarms import HELD_OUT_REWARD
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.rl.rollouts import RolloutSampler
from corl_jax.stages.setup import Setup
from corl_jax.tasks.joint import JointPrompts


class HeldOutProbe:
    """Samples the same held-out prompts with the same keys every time, as many as a step has."""

    def __init__(
        self,
        setup: Setup,
        cfg: RlConfig,
        reward_scorer: RewardScorer,
        make_joint_prompts: Callable[[RlConfig, RolloutSampler], JointPrompts],
        open_records: Callable[[Literal["test"]], RecordSource],
        record_checks: Callable[[RlConfig], Mapping[str, Sequence[Check]]],
        seed: int,
    ):
        """Arguments are those of training.

        A task that training leaves out is probed with as many prompts as the other, unless it has
        no rewards in the config.
        """
        # The probe is a small config of its own over training's model and reward models.
        rollout = cfg.rollout
        most_prompts = max(rollout.image_prompts, rollout.text_prompts)
        prompts = {"image": rollout.image_prompts, "text": rollout.text_prompts}
        for task, count in prompts.items():
            if count == 0 and cfg.rewards[task]:
                prompts[task] = most_prompts
        probe_cfg = dataclasses.replace(
            cfg,
            rollout=dataclasses.replace(
                rollout,
                image_prompts=prompts["image"],
                text_prompts=prompts["text"],
                alternate_every=0,
                one_step_off_policy=False,
            ),
        )

        self._setup, self._open_records, self._seed = setup, open_records, seed
        self._rollout_sampler = RolloutSampler(setup, probe_cfg, seed, total_steps=1)
        self._joint_prompts = make_joint_prompts(probe_cfg, self._rollout_sampler)
        self._reward_scorer = reward_scorer.with_config(probe_cfg)
        self._record_checks = [
            check for checks in record_checks(probe_cfg).values() for check in checks
        ]

    def load_reward_models(self) -> None:
        """Reads the reward models that the probed tasks need."""
        self._reward_scorer.load_reward_models()

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """The held-out records."""
        source = self._open_records("test")
        return held_out_records(source, self._joint_prompts.batch_size, self._seed)

    def check_records(self) -> None:
        """Reads the held-out records, so that one that cannot be used is found before training.

        Raises:
          UserError: there are too few of them, or some cannot be used.
        """
        source = MemorySource(self.records)
        usable_rows(source, range(len(source)), self._record_checks, label="held-out")

    def __call__(self, params: Params) -> dict[str, float]:
        """Mean total reward by task, ``image/held_out_reward`` and ``text/held_out_reward``.

        Args:
          params: of the policy, as ``Setup.rollout_params`` returns them.
        """
        # Step 0 and a stream of its own: the same prompts with the same keys every time.
        prompts = self._joint_prompts(self.records, 0)
        batch = self._rollout_sampler.sample_batch(params, prompts, 0, "probe/")
        metrics = {}
        for task, rollout in batch.rollouts.items():
            local_rollout = self._setup.sharder.local_rows(rollout)
            rewards = self._reward_scorer.score_task(
                params, task, batch.prompts[task], local_rollout
            )
            metrics[task + HELD_OUT_REWARD] = float(rewards.total.mean())
        return metrics
