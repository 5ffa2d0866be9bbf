"""Dynamic sampling: groups whose rewards are all equal are replaced by groups of other prompts.

Such groups have no advantage and teach nothing (DAPO; Yu et al., 2025, section 3.2). Every round
samples a whole batch with the programs of the step, so nothing compiles anew, and its groups with
different rewards take the places of those without.

Records and keys of a round are functions of (seed, step, round). What is replaced follows from the
rewards, which every process has. So resuming is exact, and all processes do the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from corl_jax.core.types import Params, PromptBatch, Record, Rewards
from corl_jax.data.sources.base import SelectedRecords
from corl_jax.stages.rl.advantage_step import silent_groups
from corl_jax.stages.rl.parts import parts_of
from corl_jax.stages.rl.reward_step import RewardScorer, ScoredRollouts
from corl_jax.stages.rl.rollouts import RolloutBatch, RolloutSampler
from corl_jax.tasks.joint import JointPrompts

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DynamicSampling:
    """At most ``config.rl.advantage.resample_rounds`` rounds per step.

    Attributes:
      joint_prompts: makes the prompts of both tasks.
      rollout_sampler, reward_scorer: of the stage.
      round_records: step and round to its records, as many as a step has.
    """

    joint_prompts: JointPrompts
    rollout_sampler: RolloutSampler
    reward_scorer: RewardScorer
    round_records: Callable[[int, int], SelectedRecords]

    def __call__(self, params: Params, scored: ScoredRollouts) -> ScoredRollouts:
        """``scored`` with as many groups replaced as the rounds provide, and metrics about it.

        Args:
          params: of the policy that samples.
          scored: the step's own rollouts.
        """
        cfg, sharder = self.rollout_sampler.cfg, self.rollout_sampler.setup.sharder
        rounds, replaced = 0, dict.fromkeys(scored.rewards, 0)
        while rounds < cfg.advantage.resample_rounds:
            zero_std = self.zero_std_groups(scored.rewards)
            missing = {task: flags for task, flags in zero_std.items() if flags.any()}
            if not missing:
                break

            # One more batch of other records, for the tasks that need it.
            rounds += 1
            records = self.round_records(scored.batch.step, rounds)
            extra = self.sample_again(params, records, scored.batch.step, rounds, tuple(missing))
            scored = dataclasses.replace(
                scored,
                batch=scored.batch.with_times_of(extra.batch),
                seconds=scored.seconds + extra.seconds,
            )
            extra_zero_std = self.zero_std_groups(extra.rewards)
            for task, flags in missing.items():
                source = replacements(flags, ~extra_zero_std[task])
                replaced[task] += int((source >= 0).sum())
                scored = self.replace_groups(scored, extra, task, source, records)

        metrics = {"resample/rounds": float(rounds)}
        for task, count in replaced.items():
            metrics[f"{task}/resampled"] = count / cfg.rollout.prompts[task]

        # The same placement in every step, whether groups were replaced or not.
        rollouts = sharder.put_batch(scored.batch.rollouts)
        batch = dataclasses.replace(scored.batch, rollouts=rollouts)
        return dataclasses.replace(
            scored, batch=batch, local_rollouts=sharder.local_rows(rollouts), metrics=metrics
        )

    def zero_std_groups(self, rewards: Mapping[str, Rewards]) -> dict[str, np.ndarray]:
        """Task to bool ``[B]``, the groups without an advantage."""
        cfg = self.rollout_sampler.cfg
        return silent_groups(cfg, rewards, cfg.advantage.pairing)

    def sample_again(
        self,
        params: Params,
        records: Sequence[Record],
        step: int,
        round_number: int,
        tasks: tuple[str, ...],
    ) -> ScoredRollouts:
        """The rollouts of a round and their rewards."""
        # The round is part of the stream's name, so that no key is used twice.
        prompts = self.joint_prompts(records, step)
        sampled = {part: prompts[part] for task in tasks for part in parts_of(task, prompts)}
        batch = self.rollout_sampler.sample_batch(params, sampled, step, f"refill {round_number}/")
        return self.reward_scorer.score_rollouts(params, batch)

    def replace_groups(
        self,
        scored: ScoredRollouts,
        extra: ScoredRollouts,
        task: str,
        source: np.ndarray,
        records: Sequence[Record],
    ) -> ScoredRollouts:
        """``scored`` with some groups of ``task`` taken from ``extra``.

        Args:
          source: int ``[B]``: for each group the one of ``extra`` that replaces it, or -1.
          records: of all prompts of ``extra``; only those of replacing groups are read.
        """
        batch = scored.batch
        for part in parts_of(task, batch.rollouts):
            batch = self._replace_part(batch, extra.batch, part, source, records)

        # The rewards of all samples.
        old_rewards, new_rewards = scored.rewards[task], extra.rewards[task]
        rewards = Rewards(
            old_rewards.names,
            _replace_host_groups(old_rewards.matrix, new_rewards.matrix, source),
            _replace_host_groups(old_rewards.total, new_rewards.total, source),
        )
        return dataclasses.replace(scored, batch=batch, rewards=scored.rewards | {task: rewards})

    def _replace_part(
        self,
        batch: RolloutBatch,
        extra: RolloutBatch,
        part: str,
        source: np.ndarray,
        records: Sequence[Record],
    ) -> RolloutBatch:
        """``batch`` with the prompts and samples of some groups of a part taken from ``extra``."""
        sampler = self.rollout_sampler

        # A group may have several rows: its row ``r`` goes where row ``r`` was.
        per_group = sampler.rows_per_step(part) // len(source)
        rows = np.repeat(source, per_group)
        rows = np.where(rows >= 0, rows * per_group + np.arange(len(rows)) % per_group, -1)
        old = (batch.prompts[part].prompts, batch.rollouts[part])
        new = (extra.prompts[part].prompts, extra.rollouts[part])
        new_prompts, rollout = sampler.setup.sharder.put_batch(
            _replace_rows(old, new, rows.astype(np.int32))
        )

        # The records of this process's rows.
        new_records = tuple(
            records[int(source[i])] if source[i] >= 0 else record
            for i, record in zip(
                sampler.row_prompts(part), batch.prompts[part].records, strict=True
            )
        )
        return dataclasses.replace(
            batch,
            prompts=batch.prompts | {part: PromptBatch(new_prompts, new_records)},
            rollouts=batch.rollouts | {part: rollout},
        )


def replacements(missing: np.ndarray, available: np.ndarray) -> np.ndarray:
    """For each group the number of the one that replaces it, or -1, in order.

    Args:
      missing: bool ``[B]``, groups to replace.
      available: bool ``[B]``, groups that may replace them.
    """
    # The first missing group takes the first available one, and so on until either runs out.
    source = np.full(len(missing), -1)
    pairs = zip(np.flatnonzero(missing), np.flatnonzero(available), strict=False)
    for group, replacement in pairs:
        source[group] = replacement
    return source


def _replace_host_groups(old: np.ndarray, new: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``old [B * G, ...]`` with group ``i`` from group ``source[i]`` of ``new`` where that is not -1."""
    groups = old.reshape(len(source), -1).copy()
    is_replaced = source >= 0
    groups[is_replaced] = new.reshape(len(source), -1)[source[is_replaced]]
    return groups.reshape(old.shape)


@jax.jit
def _replace_rows(old: T, new: T, rows: Int[Array, "B"]) -> T:
    """Every leaf of ``old`` with row ``i`` from row ``rows[i]`` of ``new`` where that is not -1."""

    def replace(old_leaf: jax.Array, new_leaf: jax.Array) -> jax.Array:
        is_replaced = (rows >= 0).reshape(-1, *[1] * (old_leaf.ndim - 1))
        return jnp.where(is_replaced, new_leaf[jnp.maximum(rows, 0)], old_leaf)

    return jax.tree.map(replace, old, new)
