"""Rewards on held-out prompts of both tasks, whichever is trained. In: parameters; out: one number per task.

A run of one task shows here what it does to the other (CoRL's pilot study: it costs).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

from corl_jax.core.types import Params, Record
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.sources import RecordSource
from corl_jax.engine.alarms import HELD_OUT
from corl_jax.stages.rl.config import RlSettings
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.rl.rollouts import RolloutSampler
from corl_jax.stages.setup import Setup
from corl_jax.tasks.joint import Joint


class HeldOutProbe:
    """Asks the same held-out prompts with the same keys every time, as many as a step has."""

    def __init__(
        self,
        parts: Setup,
        settings: RlSettings,
        judge: RewardScorer,
        joint: Callable[[RlSettings, RolloutSampler], Joint],
        records: Callable[[Literal["test"]], RecordSource],
        seed: int,
    ):
        """``settings``, ``judge`` and ``joint`` are training's; a task that it leaves out is asked as often as the
        other, unless it has no rewards in the config."""
        most = max(settings.pictures, settings.questions)
        counts = {"image": settings.pictures, "text": settings.questions}
        counts = {
            task: count or (most if settings.rewards[task] else 0) for task, count in counts.items()
        }
        s = dataclasses.replace(
            settings,
            pictures=counts["image"],
            questions=counts["text"],
            alternate=0,
            stale_rollouts=False,
        )
        self._parts, self._records, self._seed = parts, records, seed
        self._rollouts = RolloutSampler(parts, s, seed, 1)
        self._joint, self._judge = joint(s, self._rollouts), judge.of(s)

    def open(self) -> None:
        """Reads what reward models it needs."""
        self._judge.open()

    @functools.cached_property
    def held_out(self) -> tuple[Record, ...]:
        """What is asked."""
        return held_out_records(self._records("test"), self._joint.batch_size, self._seed)

    def __call__(self, params: Params) -> dict[str, float]:
        """Mean total reward by task, ``image/held_out_reward`` and ``text/held_out_reward``; ``params`` placed for rollouts."""
        drawn = self._rollouts.sample_batch(params, self._joint(self.held_out, 0), 0, "probe/")
        rewards = {}
        for task, rollout in drawn.rollouts.items():
            own = self._parts.sharder.local_rows(rollout)
            found = self._judge.score(params, task, drawn.asked[task], own)
            rewards[task + HELD_OUT] = float(found.total.mean())
        return rewards
