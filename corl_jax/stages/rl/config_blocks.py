"""The sub-blocks of ``config.rl`` as frozen dataclasses that check their own values.

Every option is one field with its default here. ``configs/unified.py`` starts from these defaults
and changes what it needs, so that a new option is one field, one use and one test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.objectives.advantages import PAIRINGS, baselines, normalizations
from corl_jax.objectives.policy_gradient import CLIPS
from corl_jax.objectives.sampling_distribution import check_sampling_params
from corl_jax.objectives.token_weights import aggregations
from corl_jax.sampling.quantized import SAMPLER_DTYPES
from corl_jax.stages.config import check_choice, check_count

TASKS = ("image", "text")
"""Text-to-image, whose completions are images, and visual question answering, whose are texts."""

LOG_PROB_GUIDANCE = ("matched", "conditional")
IMAGE_ALIGNMENTS = ("aligned", "off_by_one_ulm_r1")


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """``config.rl.rollout``: what is sampled in a step, and how.

    Attributes:
      image_prompts: text-to-image prompts per step; 0 leaves the task out.
      text_prompts: questions per step; 0 leaves the task out.
      group_size: samples per prompt, ``G``.
      alternate_every: trains the tasks in turns of so many steps, images first; 0 trains both in
        every step.
      guidance_scale: of classifier-free guidance while images are sampled; 1 is none.
      temperature: of both tasks.
      image_prompt_length, text_prompt_length: width in tokens that prompts are padded to.
      completion_length: most tokens of an answer. An image always has the model's image tokens.
      weights_dtype: dtype of the sampler's weights: ``same`` as the policy's, or ``int8``.
      cache_dtype: dtype of the sampler's KV cache: ``same``, or ``int8``.
      one_step_off_policy: samples the rollouts of the next step with the parameters before this
        update, so that the device samples while the host computes rewards.
    """

    image_prompts: int = 8
    text_prompts: int = 8
    group_size: int = 8
    alternate_every: int = 0
    guidance_scale: float = 5.0
    temperature: float = 1.0
    image_prompt_length: int = 128
    text_prompt_length: int = 1024
    completion_length: int = 512
    weights_dtype: str = "same"
    cache_dtype: str = "same"
    one_step_off_policy: bool = False

    def __post_init__(self):
        if self.group_size < 2:
            raise UserError(
                f"config.rl.rollout.group_size must be at least 2; got {self.group_size}. "
                "Samples are compared within their group, so ask for more of them"
            )
        if self.temperature == 0:
            raise UserError(
                "config.rl.rollout.temperature must be above 0; got 0. "
                "Greedy samples of a group are all the same, so there is nothing to compare"
            )
        check_sampling_params(guidance_scale=self.guidance_scale, temperature=self.temperature)
        for name in ("image_prompts", "text_prompts", "alternate_every"):
            check_count(f"rl.rollout.{name}", getattr(self, name))
        for name in ("weights_dtype", "cache_dtype"):
            check_choice(f"rl.rollout.{name}", getattr(self, name), SAMPLER_DTYPES)

    @property
    def prompts(self) -> dict[str, int]:
        """Task to its prompts per step, for the tasks that are trained."""
        counts = {"image": self.image_prompts, "text": self.text_prompts}
        return {task: count for task, count in counts.items() if count}

    @property
    def uses_guidance(self) -> bool:
        """Whether sampling runs the unconditional prompt beside the conditional one."""
        return self.guidance_scale != 1


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """``config.rl.advantage``: how rewards become advantages.

    Attributes:
      pairing: how the tasks share rewards, see ``objectives.advantages.paired_advantages``.
      pairing_text_weight: weight of the answer's reward in a pair.
      baseline: what is subtracted from a reward, a name in ``objectives.advantages.baselines``.
      normalization: what the difference is divided by, a name in
        ``objectives.advantages.normalizations``.
      resample_rounds: most rounds per step that replace groups whose rewards are all equal, see
        ``stages.rl.resample``; 0 keeps them.
    """

    pairing: str = "separate"
    pairing_text_weight: float = 0.8
    baseline: str = "mean"
    normalization: str = "group"
    resample_rounds: int = 0

    def __post_init__(self):
        check_choice("rl.advantage.pairing", self.pairing, PAIRINGS)
        baselines.require(self.baseline)
        normalizations.require(self.normalization)
        check_count("rl.advantage.resample_rounds", self.resample_rounds)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """``config.rl.loss``: from advantages to the loss.

    Attributes:
      aggregation: how token losses are weighted, a name in
        ``objectives.token_weights.aggregations``.
      clip: kind of clipping, see ``objectives.policy_gradient.clipped_surrogate``.
      clip_low, clip_high: the ratio is clipped to ``[1 - clip_low, 1 + clip_high]``.
      clip_ceiling: largest ratio where the advantage is negative, for ``clip=two_sided``.
      task_weight: task to its weight in the loss.
      entropy_bonus: task to what a nat of entropy per token subtracts from its loss.
      importance_cap: largest importance weight of a token whose sampler differed from the policy,
        see ``objectives.policy_gradient.importance_weights``; 0 uses no such weights.
    """

    aggregation: str = "sequence_mean"
    clip: str = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_ceiling: float = 3.0
    task_weight: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 1.0)
    )
    entropy_bonus: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 0.0)
    )
    importance_cap: float = 0.0

    def __post_init__(self):
        aggregations.require(self.aggregation)
        check_choice("rl.loss.clip", self.clip, CLIPS)
        if self.clip == "two_sided" and self.clip_ceiling <= 1 + self.clip_high:
            raise UserError(
                f"config.rl.loss.clip_ceiling must be above 1 + clip_high={1 + self.clip_high:g}, "
                f"where the clip ends; got {self.clip_ceiling}. Choose for example 3"
            )
        for name in ("task_weight", "entropy_bonus"):
            _check_per_task(f"rl.loss.{name}", getattr(self, name))
        if self.importance_cap != 0 and self.importance_cap < 1:
            raise UserError(
                f"config.rl.loss.importance_cap must be 0 (no weights) or at least 1; got "
                f"{self.importance_cap}. Below 1 it would shrink tokens that need no weight"
            )


@dataclasses.dataclass(frozen=True)
class LogProbsConfig:
    """``config.rl.log_probs``: how log-probs of rollouts are computed for the loss.

    Attributes:
      guidance: ``matched`` takes the distribution of image tokens with the guidance that sampled
        them, ``conditional`` without it, as ULM-R1's code does.
      image_alignment: ``aligned`` reads an image token's log-prob off the state that predicts it,
        ``off_by_one_ulm_r1`` off the state after it, as ULM-R1's code does.
      shared_prefix: tasks whose prompts are read once for all samples of the group.
      chunk_length: completion tokens whose logits are held at a time; 0 holds all.
    """

    guidance: str = "matched"
    image_alignment: str = "aligned"
    shared_prefix: tuple[str, ...] = TASKS
    chunk_length: int = 0

    def __post_init__(self):
        check_choice("rl.log_probs.guidance", self.guidance, LOG_PROB_GUIDANCE)
        check_choice("rl.log_probs.image_alignment", self.image_alignment, IMAGE_ALIGNMENTS)
        if not isinstance(self.shared_prefix, tuple) or set(self.shared_prefix) - set(TASKS):
            raise UserError(
                f"config.rl.log_probs.shared_prefix must be a tuple of some of {TASKS}, or (); "
                f"got {self.shared_prefix!r}"
            )
        check_count("rl.log_probs.chunk_length", self.chunk_length)


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """``config.rl.reference``: whether the reference policy of the KL term follows the policy.

    Attributes:
      update_every: steps from one move of the reference to the next; 0 keeps it fixed.
      mix: share of the policy in a moved reference, see ``engine.reference_policy``.
    """

    update_every: int = 0
    mix: float = 0.6

    def __post_init__(self):
        check_count("rl.reference.update_every", self.update_every)
        if not 0 < self.mix <= 1:
            raise UserError(
                f"config.rl.reference.mix must be above 0 and at most 1; got {self.mix}. "
                "1 replaces the reference by the policy"
            )


def _check_per_task(key: str, values: Any) -> None:
    """Raises UserError unless ``values`` has a finite number of at least 0 for every task."""
    if not isinstance(values, Mapping) or set(values) != set(TASKS):
        raise UserError(
            f"config.{key} must have a number for each of {', '.join(TASKS)}; got {values!r}"
        )
    for task, value in values.items():
        if not 0 <= value < float("inf"):
            raise UserError(
                f"config.{key}.{task} must be a finite number of at least 0; got {value}"
            )
