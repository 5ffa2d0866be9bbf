"""Rewards of held-out prompts of both tasks, whichever is trained.

A run of one task shows here what it does to the other (in CoRL's pilot study, it costs).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from corl_jax.core.types import Params, Record
from corl_jax.engine.alarms import HELD_OUT_REWARD
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.config_blocks import ExternalConfig
from corl_jax.stages.rl.held_out import HeldOutRecords
from corl_jax.stages.rl.parts import parts_of
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.rl.rollouts import RolloutSampler
from corl_jax.stages.setup import Setup


class HeldOutProbe:
    """Samples the same held-out prompts with the same keys every time, as many as a step has.

    Attributes:
      tasks: those that are probed, once ``open_inputs`` has read their records.
    """

    tasks: tuple[str, ...] = ()

    def __init__(
        self,
        setup: Setup,
        cfg: RlConfig,
        reward_scorer: RewardScorer,
        held_out: HeldOutRecords,
        seed: int,
    ):
        """Arguments are those of training.

        A task that training leaves out is probed with as many prompts as the other, unless it has
        no rewards in the config, or the held-out records lack what it needs.
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
            # Only what the policy draws itself says what it can do.
            external=ExternalConfig(),
        )

        self._setup, self._held_out, self._seed = setup, held_out, seed
        self._trained, self._counts = cfg.tasks, probe_cfg.rollout.prompts
        self._rollout_sampler = RolloutSampler(setup, probe_cfg, seed, total_steps=1)
        self._reward_scorer = reward_scorer.with_config(probe_cfg)

    @functools.cached_property
    def records(self) -> dict[str, tuple[Record, ...]]:
        """Task to its held-out records."""
        return self._held_out.by_task(self._counts, self._seed, self._trained)

    @property
    def counts(self) -> Mapping[str, int]:
        """Task to the held-out prompts that it is probed with."""
        return self._counts

    def open_inputs(self) -> None:
        """Reads records, so that what cannot be used is found before training.

        Raises:
          UserError: there are too few records, or something cannot be used.
        """
        rewards = {task: self._reward_scorer.cfg.rewards[task] for task in self.records}
        records = [record for records in self.records.values() for record in records]
        self._held_out.check(records, rewards)
        self.tasks = tuple(self.records)

    def __call__(self, params: Params) -> dict[str, float]:
        """Mean total reward by task, ``image/held_out_reward`` and ``text/held_out_reward``.

        Args:
          params: of the policy, as ``Setup.rollout_params`` returns them.
        """
        # Step 0 and a stream of its own: the same prompts with the same keys every time.
        prompts, tasks = {}, self._reward_scorer.tasks
        for task, records in self.records.items():
            ids = self._rollout_sampler.local_prompt_ids(len(records))
            for part in parts_of(task, {*tasks} - {"check"}):
                prompts[part] = tasks[part].make_prompts([records[i] for i in ids])
        batch = self._rollout_sampler.sample_batch(params, prompts, 0, "probe/")
        metrics = {}
        for task in self.records:
            local_rollout = self._setup.sharder.local_rows(batch.rollouts[task])
            rewards = self._reward_scorer.score_task(
                params, task, batch.prompts[task], local_rollout
            )
            metrics[task + HELD_OUT_REWARD] = float(rewards.total.mean())
        return metrics
