"""The rewards of a step: who may be asked for them, how they are combined, what is logged of them.

In: rollouts on the host. Out: ``Rewards``, totals for the advantages, metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.types import Params, PromptBatch, Rewards, Rollout
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.running_moments import RunningMoments
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.requirements import needed
from corl_jax.sampling.policy_handle import RewardPolicyHandle
from corl_jax.stages.rl.config import RlSettings
from corl_jax.stages.rl.rollouts import RolloutBatch
from corl_jax.stages.setup import Setup
from corl_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts of a step and what they are worth.

    Attributes:
      drawn: on the mesh.
      own: by task this process's rows, on the host.
      scores: by task, whole on every process.
      said: to be logged.
    """

    drawn: RolloutBatch
    local_rows: dict[str, Rollout]
    scores: dict[str, Rewards]
    said: HostMetrics = dataclasses.field(default_factory=dict)


class RewardScorer:
    """Scores what a policy wrote, as ``config.rewards`` and ``config.reward`` say."""

    def __init__(
        self,
        parts: Setup,
        settings: RlSettings,
        tasks: Mapping[str, Task],
        nets: RewardModels | None = None,
    ):
        """``nets``: reward models to share; None opens its own."""
        self.parts, self.settings, self.tasks = parts, settings, tasks
        self.reward_models = (
            RewardModels(settings.reward.models, parts.sharder) if nets is None else nets
        )

    def of(self, settings: RlSettings) -> RewardScorer:
        """Another that asks the same reward models, each of which is read once."""
        return RewardScorer(self.parts, settings, self.tasks, self.reward_models)

    def open(self) -> None:
        """Reads the reward models that this run uses.

        Raises:
          UserError: one is not named, not there, or damaged.
        """
        names = {name for task in self.settings.asked for name in self.settings.rewards[task]}
        self.reward_models.open(sorted(needed(names, self.settings.reward)))

    def judged(self, params: Params, drawn: RolloutBatch) -> ScoredRollouts:
        """All of ``drawn`` with its rewards, task by task as rollouts come."""
        own, scores = {}, {}
        for task, rollout in drawn.rollouts.items():
            own[task] = self.parts.sharder.local_rows(rollout)
            scores[task] = self.score(params, task, drawn.asked[task], own[task])
        return ScoredRollouts(drawn, own, scores)

    def score(self, params: Params, task: str, asked: PromptBatch, rollout: Rollout) -> Rewards:
        """Rewards of every sample, each computed by the process that holds it; whole on every process.

        Args:
          params: of the policy, for the rewards that read with it.
          rollout: this process's rows, on the host.
        """
        s, parts = self.settings, self.parts
        policy = RewardPolicyHandle(
            parts.sampler,
            parts.tokenizer,
            params,
            s.text_prompt_length,
            parts.sharder,
            s.completion_length,
        )
        context = RewardContext(policy, self.reward_models, s.reward)
        mine = compute_rewards(self.tasks[task].read_back(asked, rollout), s.rewards[task], context)
        return Rewards(mine.names, *parts.sharder.all_gather_rows((mine.matrix, mine.total)))

    def standardised(self, task: str, one: Rewards, algo: Mapping[str, Any]) -> Rewards:
        """``one`` with its total made of z-scores over the run so far, this step included, where the config says so."""
        if self.settings.reward.normalise != "running":
            return one
        moments: RunningMoments = jax.device_get(algo["rewards"][task])
        values = one.matrix.astype(np.float64)
        weights = np.array(list(self.settings.rewards[task].values()))
        total = moments.with_values(values).z_scores(values) @ weights
        return Rewards(one.names, one.matrix, total.astype(np.float32))

    def metrics(self, scores: Mapping[str, Rewards]) -> HostMetrics:
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
                    metrics[f"{task}/reward_std_share/{name}"] = float(part / max(spread.sum(), 1e-12))
            totals = one.total.reshape(-1, self.settings.group)
            metrics[f"{task}/reward"] = float(one.total.mean())
            metrics[f"{task}/reward_std"] = float(totals.std(1, ddof=1).mean())
            metrics[f"{task}/zero_std_groups"] = float((np.ptp(totals, 1) == 0).mean())
        return metrics
