"""The rewards of a step: who may be asked for them, how they are combined, what is logged of them.

In: rollouts on the host. Out: ``Scores``, totals for the advantages, metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.types import Asked, Params, Rollout, Scores
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.running_moments import Moments
from corl_jax.reward_models.collection import Nets
from corl_jax.rewards.base import RewardContext, score
from corl_jax.rewards.requirements import needed
from corl_jax.sampling.policy_handle import PolicyStates
from corl_jax.stages.rl.config import RlSettings
from corl_jax.stages.rl.rollouts import Drawn
from corl_jax.stages.setup import Parts
from corl_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Judged:
    """Rollouts of a step and what they are worth.

    Attributes:
      drawn: on the mesh.
      own: by task this process's rows, on the host.
      scores: by task, whole on every process.
      said: to be logged.
    """

    drawn: Drawn
    own: dict[str, Rollout]
    scores: dict[str, Scores]
    said: HostMetrics = dataclasses.field(default_factory=dict)


class Judge:
    """Scores what a policy wrote, as ``config.rewards`` and ``config.reward`` say."""

    def __init__(
        self,
        parts: Parts,
        settings: RlSettings,
        tasks: Mapping[str, Task],
        nets: Nets | None = None,
    ):
        """``nets``: reward models to share; None opens its own."""
        self.parts, self.settings, self.tasks = parts, settings, tasks
        self.nets = Nets(settings.reward.models, parts.sharder) if nets is None else nets

    def of(self, settings: RlSettings) -> Judge:
        """Another that asks the same reward models, each of which is read once."""
        return Judge(self.parts, settings, self.tasks, self.nets)

    def open(self) -> None:
        """Reads the reward models that this run uses.

        Raises:
          UserError: one is not named, not there, or damaged.
        """
        names = {name for task in self.settings.asked for name in self.settings.rewards[task]}
        self.nets.open(sorted(needed(names, self.settings.reward)))

    def judged(self, params: Params, drawn: Drawn) -> Judged:
        """All of ``drawn`` with its rewards, task by task as rollouts come."""
        own, scores = {}, {}
        for task, rollout in drawn.rollouts.items():
            own[task] = self.parts.sharder.own(rollout)
            scores[task] = self.score(params, task, drawn.asked[task], own[task])
        return Judged(drawn, own, scores)

    def score(self, params: Params, task: str, asked: Asked, rollout: Rollout) -> Scores:
        """Rewards of every sample, each computed by the process that holds it; whole on every process.

        Args:
          params: of the policy, for the rewards that read with it.
          rollout: this process's rows, on the host.
        """
        s, parts = self.settings, self.parts
        policy = PolicyStates(
            parts.sampler,
            parts.tokenizer,
            params,
            s.text_prompt_length,
            parts.sharder,
            s.completion_length,
        )
        context = RewardContext(policy, self.nets, s.reward)
        mine = score(self.tasks[task].read_back(asked, rollout), s.rewards[task], context)
        return Scores(mine.names, *parts.sharder.gather((mine.matrix, mine.total)))

    def standardised(self, task: str, one: Scores, algo: Mapping[str, Any]) -> Scores:
        """``one`` with its total made of z-scores over the run so far, this step included, where the config says so."""
        if self.settings.reward.normalise != "running":
            return one
        moments: Moments = jax.device_get(algo["rewards"][task])
        values = one.matrix.astype(np.float64)
        weights = np.array(list(self.settings.rewards[task].values()))
        total = moments.with_values(values).z_scores(values) @ weights
        return Scores(one.names, one.matrix, total.astype(np.float32))

    def metrics(self, scores: Mapping[str, Scores]) -> HostMetrics:
        """Rewards part by part, their spread within groups, each part's share of it, groups without signal.

        Parts and shares are of the rewards as they came, before they are standardised.
        """
        metrics: HostMetrics = {}
        for task, one in scores.items():
            weights = np.array(list(self.settings.rewards[task].values()))
            groups = one.matrix.reshape(-1, self.settings.group, len(one.names)) * weights
            spread = groups.std(1, ddof=1).mean(0)
            for name, column, part in zip(one.names, one.matrix.T, spread, strict=True):
                metrics[f"{task}/reward/{name}"] = float(column.mean())
                if len(one.names) > 1:
                    metrics[f"{task}/share/{name}"] = float(part / max(spread.sum(), 1e-12))
            totals = one.total.reshape(-1, self.settings.group)
            metrics[f"{task}/reward"] = float(one.total.mean())
            metrics[f"{task}/reward_std"] = float(totals.std(1, ddof=1).mean())
            metrics[f"{task}/constant_groups"] = float((np.ptp(totals, 1) == 0).mean())
        return metrics
