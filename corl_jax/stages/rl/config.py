"""All that the reinforcement learning stage reads from a config.

``config_blocks.py`` has the blocks, ``config_rules.py`` the rules between them, and ``read_config.py``
reads both.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from corl_jax.core.checks.config_block import config_block
from corl_jax.data.plans import Plans
from corl_jax.objectives.kl import KlConfig
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.rewards.config import RewardOptions
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.stages.rl.config_blocks import (
    AdvantageConfig,
    CheckConfig,
    CurriculumConfig,
    ExternalConfig,
    LogProbsConfig,
    LossConfig,
    PlanConfig,
    ReferenceConfig,
    RolloutConfig,
)
from corl_jax.stages.rl.parts import PARTS

BLOCKS = {
    "rollout": RolloutConfig,
    "advantage": AdvantageConfig,
    "loss": LossConfig,
    "curriculum": CurriculumConfig,
    "external": ExternalConfig,
    "log_probs": LogProbsConfig,
    "reference": ReferenceConfig,
    "plan": PlanConfig,
    "check": CheckConfig,
}
"""Sub-blocks of ``config.rl``."""


RewardWeights = Mapping[str, float]
"""Reward name to weight, which may be negative."""


@config_block
class RewardTables:
    """The tables of ``config.rewards``; ``options`` stands beside them.

    Attributes:
      image: reward name to its weight in the reward of a drawn image.
      text: reward name to its weight in the reward of an answer.
    """

    image: RewardWeights
    text: RewardWeights


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """All that the reinforcement learning stage reads from a config.

    Attributes:
      rollout, advantage, loss, curriculum, external, log_probs, reference, plan, check: the
        sub-blocks of ``config.rl``.
      stage_starts: first steps of the stages of a curriculum, from 0, ``config.data.stages``.
      kl: task to the schedule of its KL coefficient, ``config.kl``.
      rewards: task to (reward name to weight), ``config.rewards.image`` and ``.text``.
      reward_options: choices that several rewards share, ``config.rewards.options``.
    """

    rollout: RolloutConfig
    advantage: AdvantageConfig
    loss: LossConfig
    curriculum: CurriculumConfig
    external: ExternalConfig
    log_probs: LogProbsConfig
    reference: ReferenceConfig
    plan: PlanConfig
    check: CheckConfig
    stage_starts: tuple[int, ...]
    kl: Mapping[str, KlConfig]
    rewards: Mapping[str, Mapping[str, float]]
    reward_options: RewardOptions

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return tuple(self.rollout.prompts)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the tasks that are trained, in the order in which they are sampled."""
        is_left_out = {"plan": not self.plan.length, "check": not self.check.prompts}
        return tuple(
            name
            for name, part in PARTS.items()
            if part.task in self.tasks and not is_left_out.get(name)
        )

    @property
    def plans(self) -> Plans | None:
        """How images are planned; None where they are not."""
        return Plans(self.plan.length, self.plan.template) if self.plan.length else None

    def prompt_length(self, part: str) -> int:
        """Width of the prompts of ``part``, in tokens."""
        c = self.rollout
        # An image is drawn behind its plan.
        lengths = {
            "image": c.image_prompt_length + self.plan.length,
            "text": c.text_prompt_length,
            "plan": self.plan.prompt_length,
            "check": self.check.prompt_length,
        }
        return lengths[part]

    def text_length(self, part: str) -> int:
        """Most tokens of a completion of a part that is text."""
        return self.plan.length if part == "plan" else self.rollout.completion_length

    @property
    def needs_reference(self) -> bool:
        """Whether any task has a KL term."""
        return any(self.kl[task].needs_reference for task in self.tasks)

    @property
    def success_rewards(self) -> dict[str, str]:
        """Task to the reward that says whether a sample succeeded, for the trained tasks."""
        names = self.curriculum.success
        return {task: names[task] for task in self.tasks if names[task]}

    @property
    def entropy_targets(self) -> dict[str, float]:
        """Task to the entropy it is steered to, for the trained tasks that have a target."""
        targets = self.loss.entropy_target
        return {task: targets[task] for task in self.tasks if targets[task]}

    def has_external(self, task: str) -> bool:
        """Whether the policy did not draw the last sample of each group of ``task``."""
        return task == "image" and self.external.image != "none"

    def own_samples(self, task: str, samples: int) -> Bool[np.ndarray, " N"]:
        """Which of a step's ``samples``, group after group, the policy drew itself."""
        number = np.arange(samples) % self.rollout.group_size
        return number < self.rollout.group_size - self.has_external(task)

    def reward_weights(self, part: str) -> np.ndarray:
        """Weights of the rewards of a part, ``[R]``. Verdicts have one reward."""
        weights = self.rewards[part].values() if part in self.rewards else (1.0,)
        return np.array(list(weights))

    def difficulty(self, step: int) -> str:
        """How success weighs advantages in a step."""
        names = self.curriculum.difficulty
        stage = bisect.bisect_right(self.stage_starts, step) - 1
        return names[stage] if len(names) > 1 else names[0]

    def sampling_params(self, policy: PolicyFns, part: str) -> SamplingParams:
        """The distribution that samples and log-probs of ``part`` are of."""
        modality = PARTS[part].modality
        guidance = self.rollout.guidance_scale if modality == "image" else 1.0
        return policy.sampling_params(
            modality, guidance=guidance, temperature=self.rollout.temperature
        )

    def log_prob_options(self, part: str) -> LogProbOptions:
        """How log-probs of ``part`` are computed."""
        c, modality = self.log_probs, PARTS[part].modality
        return LogProbOptions(
            guided=modality == "image" and self.rollout.uses_guidance and c.guidance == "matched",
            aligned=modality == "text" or c.image_alignment == "aligned",
            shared_prefix=modality in c.shared_prefix,
            chunk_length=c.chunk_length,
        )
