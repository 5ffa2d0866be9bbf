"""Rewards of a step: computed where the samples are, normalized if asked, and described by metrics."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import on_all_processes
from corl_jax.core.types import Completion, Params, PromptBatch, Rewards, Rollout
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.calibration import calibration
from corl_jax.objectives.running_moments import RunningMoments
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards, text_of
from corl_jax.rewards.requirements import needs_reference, required_models
from corl_jax.sampling.batching import batch_rows
from corl_jax.sampling.policy_handle import RewardPolicyHandle
from corl_jax.stages.rl.advantage_step import silent_groups
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.parts import PARTS
from corl_jax.stages.rl.rollouts import RolloutBatch
from corl_jax.stages.setup import Setup
from corl_jax.tasks.base import Task
from corl_jax.tasks.self_check import read_verdict


@dataclasses.dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts of a step with their rewards.

    Attributes:
      batch: the rollouts, on the mesh.
      local_rollouts: part to this process's rows, on the host.
      rewards: part to the rewards of all samples, the same on every process; for parts that earn
        rewards of their own.
      metrics: to log.
      seconds: that the host took for the rewards, without waiting for rollouts.
    """

    batch: RolloutBatch
    local_rollouts: dict[str, Rollout]
    rewards: dict[str, Rewards]
    metrics: HostMetrics = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


class RewardScorer:
    """Computes the rewards that ``config.rewards`` names."""

    def __init__(
        self,
        setup: Setup,
        cfg: RlConfig,
        tasks: Mapping[str, Task],
        reward_models: RewardModels | None = None,
        initial_params: Callable[[], Params] | None = None,
    ):
        """``reward_models`` and ``initial_params`` to share with another scorer, else None.

        The policy that the run starts from is a function of the config, so a resumed run reads the
        same one again. It is read when a reward first needs it, and laid out as policies that sample.
        """
        self.setup, self.cfg, self.tasks = setup, cfg, tasks
        self.initial_params = initial_params or functools.cache(
            lambda: setup.rollout_params(setup.load_params())
        )
        if reward_models is None:
            reward_models = RewardModels(cfg.reward_options.models, setup.sharder)
        self.reward_models = reward_models

    def with_config(self, cfg: RlConfig) -> RewardScorer:
        """A scorer of another config over the same reward models, which are read once."""
        return RewardScorer(self.setup, cfg, self.tasks, self.reward_models, self.initial_params)

    def required_models(self, tasks: Sequence[str]) -> list[str]:
        """Names of the reward models that ``tasks`` need."""
        names = {name for task in tasks for name in self.cfg.rewards[task]}
        return sorted(required_models(names, self.cfg.reward_options))

    def load_reward_model(self, name: str) -> None:
        """Reads a reward model.

        Raises:
          UserError: it has no source, does not exist, or is damaged.
        """
        self.reward_models.load([name])

    def check_length(self) -> None:
        """Checks that texts of the policy fit before a picture, where a reward draws from them.

        Raises:
          UserError: they are longer together than the policy has positions.
        """
        if "text" in self.cfg.tasks and "picture_likelihood" in self.cfg.rewards["text"]:
            length = len(self.setup.tokenizer.wordless_generation_prompt())
            self.setup.check_length(
                {
                    "config.rl.rollout.completion_length": self.cfg.rollout.completion_length,
                    "what is around a prompt": length,
                    "an image": self.setup.cfg.image_tokens,
                }
            )

    def score_rollouts(self, params: Params, batch: RolloutBatch) -> ScoredRollouts:
        """Rewards of a whole step, part by part as the devices finish its rollouts."""
        local_rollouts, rewards, seconds = {}, {}, 0.0
        for part, rollout in batch.rollouts.items():
            local_rollouts[part] = self.setup.sharder.local_rows(rollout)
            if PARTS[part].rewards != part or part not in self.cfg.rewards:
                continue
            begin = time.perf_counter()
            rewards[part] = self.score_task(params, part, batch.prompts[part], local_rollouts[part])
            seconds += time.perf_counter() - begin
        metrics: HostMetrics = {}
        if "check" in batch.rollouts:
            rewards["check"], metrics = self.score_verdicts(
                batch.prompts["check"], local_rollouts["check"], rewards["image"]
            )
        return ScoredRollouts(batch, local_rollouts, rewards, metrics, seconds=seconds)

    def score_verdicts(
        self, prompts: PromptBatch, local_rollout: Rollout, image_rewards: Rewards
    ) -> tuple[Rewards, HostMetrics]:
        """Calibration of what the policy says of its own pictures, and how often it says yes.

        Raises:
          UserError: the reward that is trusted is not in [0, 1].
        """
        texts = self.tasks["check"].to_completions(prompts, local_rollout)
        verdicts = [read_verdict(text_of(completion)) for completion in texts]
        local = np.array([[verdict is True, verdict is False] for verdict in verdicts])
        said_yes, said_no = self.setup.sharder.all_gather_rows(local).T

        name = self.cfg.check.reward
        scores = image_rewards.matrix[: len(said_yes), image_rewards.names.index(name)]
        if scores.min() < 0 or scores.max() > 1:
            raise UserError(
                f"config.rl.check.reward must name a reward with values in [0, 1]; {name!r} gave "
                f"{scores.min():g} to {scores.max():g}. Choose another one"
            )
        values = calibration(scores, said_yes, said_no)
        metrics = {
            "check/said_yes": float(said_yes.mean()),
            "check/no_verdict": float((~(said_yes | said_no)).mean()),
        }
        return Rewards(("calibration",), values[:, None], values), metrics

    def score_task(
        self, params: Params, task: str, prompts: PromptBatch, local_rollout: Rollout
    ) -> Rewards:
        """Rewards of all samples of a task, each computed by the process that has it.

        Args:
          params: of the policy, for rewards that read with it.
          local_rollout: this process's rows, on the host.
        """
        return self._score(params, task, self.tasks[task].to_completions(prompts, local_rollout))

    def score_completions(
        self, params: Params, task: str, completions: Sequence[Completion], rows_per_call: int
    ) -> Rewards:
        """Rewards of ``N`` completions that every process has, each computed by one of them.

        Args:
          params: as for ``score_task``.
          rows_per_call: completions that are scored together; with several processes a multiple of
            the devices that divide them.
        """
        parts = []
        for rows, valid in batch_rows(len(completions), rows_per_call):
            # The last call repeats the last row, so that all calls have one shape.
            local_ids = self.setup.sharder.local_row_ids(rows_per_call)
            part = self._score(params, task, [completions[rows[row]] for row in local_ids])
            parts.append((part.matrix[:valid], part.total[:valid]))
        matrices, totals = zip(*parts, strict=True)
        names = tuple(self.cfg.rewards[task])
        return Rewards(names, np.concatenate(matrices), np.concatenate(totals))

    def _score(self, params: Params, task: str, completions: Sequence[Completion]) -> Rewards:
        """Rewards of all processes' completions, from this process's."""
        # Some rewards read with the policy itself: states of captions, answers about images. The
        # policy that the run starts from is read here, outside the time of rewards.
        names, options = self.cfg.rewards[task], self.cfg.reward_options
        reference = self.initial_params() if needs_reference(names, options) else None
        policy = RewardPolicyHandle(
            self.setup.rollout_policy,
            self.setup.tokenizer,
            params,
            self.cfg.rollout.text_prompt_length,
            self.setup.sharder,
            self.cfg.rollout.completion_length,
            reference,
        )
        context = RewardContext(policy, self.reward_models, self.cfg.reward_options)
        # Rewards may be the user's code, so that one process may fail and the others not.
        local = on_all_processes(
            lambda: compute_rewards(completions, self.cfg.rewards[task], context)
        )

        matrix, total = self.setup.sharder.all_gather_rows((local.matrix, local.total))
        return Rewards(local.names, matrix, total)

    def normalize(self, task: str, rewards: Rewards, algo: Mapping[str, Any]) -> Rewards:
        """``rewards`` whose total adds up z-scores, where the config asks for running moments.

        The moments are those of the run so far, this step included.
        """
        if self.cfg.reward_options.normalization != "running" or task not in self.cfg.rewards:
            return rewards
        # Moments are kept in float32 on the device; z-scores are computed in float64.
        moments: RunningMoments = jax.device_get(algo["rewards"][task])
        values = rewards.matrix.astype(np.float64)
        total = moments.with_values(values).z_scores(values) @ self._weights(task)
        return Rewards(rewards.names, rewards.matrix, total.astype(np.float32))

    def metrics(self, rewards: Mapping[str, Rewards]) -> HostMetrics:
        """Means and spreads of rewards; parts are as computed, before they are normalized.

        Means are of what the policy drew itself, spreads of whole groups, as advantages see them.

        See docs/metrics.md for each column.
        """
        metrics: HostMetrics = {}
        silent = silent_groups(self.cfg, rewards, "separate")
        for task, task_rewards in rewards.items():
            # Each part's standard deviation within groups, and its share of their sum.
            names, matrix = task_rewards.names, task_rewards.matrix
            own = self.cfg.own_samples(task, len(matrix))
            own_matrix, own_total = (
                values if own.all() else values[own] for values in (matrix, task_rewards.total)
            )
            groups = matrix.reshape(-1, self.cfg.rollout.group_size, len(names))
            part_stds = (groups * self._weights(task)).std(1, ddof=1).mean(0)
            if self.cfg.advantage.sums_normalized_parts:
                # Parts have one spread before they are weighted, or none where they are equal.
                part_stds = (np.ptp(groups, 1) > 0).mean(0) * np.abs(self._weights(task))
            for name, column, std in zip(names, own_matrix.T, part_stds, strict=True):
                metrics[f"{task}/reward/{name}"] = float(column.mean())
                if len(names) > 1:
                    share = float(std / max(part_stds.sum(), 1e-12))
                    metrics[f"{task}/reward_std_share/{name}"] = share

            # The total, whose groups of equal rewards teach nothing.
            totals = task_rewards.total.reshape(-1, self.cfg.rollout.group_size)
            metrics[f"{task}/reward"] = float(own_total.mean())
            if self.cfg.has_external(task):
                metrics[f"{task}/external_reward"] = float(task_rewards.total[~own].mean())
            metrics[f"{task}/reward_std"] = float(totals.std(1, ddof=1).mean())
            metrics[f"{task}/zero_std_groups"] = float(silent[task].mean())
        return metrics

    def _weights(self, task: str) -> np.ndarray:
        """Weights of the task's rewards, ``[R]``."""
        return self.cfg.reward_weights(task)
