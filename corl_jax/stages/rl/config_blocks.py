"""The sub-blocks of ``config.rl`` as frozen dataclasses that check their own values.

Every option is one field with its default here. ``configs/unified.py`` starts from these defaults
and changes what it needs, so that a new option is one field, one use and one test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from corl_jax.core.checks.config_block import (
    Count,
    FieldError,
    Interval,
    Keys,
    NotEmpty,
    OneOf,
    PositiveInt,
    Weight,
    config_block,
)
from corl_jax.objectives.advantages import PAIRINGS, baselines, normalizations
from corl_jax.objectives.difficulty import difficulty_weights
from corl_jax.objectives.policy_gradient import CLIPS
from corl_jax.objectives.sampling_distribution import GREEDY_BELOW
from corl_jax.objectives.token_weights import aggregations
from corl_jax.sampling.quantized import SAMPLER_DTYPES

TASKS = ("image", "text")
"""Text-to-image, whose completions are images, and visual question answering, whose are texts."""

WeightPerTask = Annotated[Mapping[str, Weight], Keys(TASKS, exact=True)]

HISTORIES = ("none", "unsolved")
"""Which records an epoch has: all, or those that were not solved when they were sampled last."""

LOG_PROB_GUIDANCE = ("matched", "conditional")
IMAGE_ALIGNMENTS = ("aligned", "off_by_one_ulm_r1")


@config_block
class RolloutConfig:
    """``config.rl.rollout``: what is sampled in a step, and how.

    Attributes:
      image_prompts: text-to-image prompts per step; 0 leaves the task out.
      text_prompts: questions per step; 0 leaves the task out.
      group_size: samples per prompt, ``G``.
      alternate_every: trains the tasks in turns of so many steps, images first; 0 trains both in
        every step.
      guidance_scale: of classifier-free guidance while images are sampled; 1 is none.
      temperature: of sampling, in both tasks.
      image_prompt_length, text_prompt_length: width in tokens that prompts are padded to.
      question_pictures: whether questions are asked about the record's image. False asks them in words
        alone: prompts have no images and records need none; ``config.data.template`` may then tell
        the caption, ``{prompt}`` (LMM-R1 trains on texts first, arXiv 2503.07536).
      completion_length: most tokens of an answer. An image always has the model's image tokens.
      weights_dtype: dtype of the sampler's weights: ``same`` as the policy's, or ``int8``.
      cache_dtype: dtype of the sampler's KV cache: ``same``, or ``int8``.
      one_step_off_policy: samples the rollouts of the next step with the parameters before this
        update, so that the device samples while the host computes rewards.
    """

    image_prompts: Count = 8
    text_prompts: Count = 8
    group_size: Annotated[
        int, Interval(ge=2), "Samples are compared within their group, so ask for more of them"
    ] = 8
    alternate_every: Count = 0
    guidance_scale: Weight = 5.0
    temperature: Annotated[
        float,
        Interval(ge=GREEDY_BELOW),
        "Greedy samples of a group are all the same, so there is nothing to compare",
    ] = 1.0
    image_prompt_length: PositiveInt = 128
    text_prompt_length: PositiveInt = 1024
    question_pictures: bool = True
    completion_length: PositiveInt = 512
    weights_dtype: Annotated[str, OneOf(SAMPLER_DTYPES)] = "same"
    cache_dtype: Annotated[str, OneOf(SAMPLER_DTYPES)] = "same"
    one_step_off_policy: bool = False

    @property
    def prompts(self) -> dict[str, int]:
        """Task to its prompts per step, for the tasks that are trained."""
        counts = {"image": self.image_prompts, "text": self.text_prompts}
        return {task: count for task, count in counts.items() if count}

    @property
    def uses_guidance(self) -> bool:
        """Whether sampling runs the unconditional prompt beside the conditional one."""
        return self.guidance_scale != 1


@config_block
class AdvantageConfig:
    """``config.rl.advantage``: how rewards become advantages.

    Attributes:
      pairing: how the tasks share rewards: an image and an answer have the advantage of their
        common reward (``unified``) or the sum of their advantages, or each task has its own.
      pairing_text_weight: weight of the answer's reward in a pair.
      baseline: what is subtracted from a reward.
      normalization: what the difference is divided by.
      resample_rounds: most rounds per step that replace groups whose rewards are all equal; 0
        keeps them.
    """

    pairing: Annotated[str, OneOf(PAIRINGS)] = "separate"
    pairing_text_weight: Weight = 0.8
    baseline: Annotated[str, OneOf(baselines)] = "mean"
    normalization: Annotated[str, OneOf(normalizations)] = "group"
    resample_rounds: Count = 0


@config_block
class LossConfig:
    """``config.rl.loss``: from advantages to the loss.

    Attributes:
      aggregation: how the losses of tokens are weighted.
      clip: how the ratio of the policy to the sampler is clipped.
      clip_low, clip_high: the ratio is clipped to ``[1 - clip_low, 1 + clip_high]``.
      clip_ceiling: largest ratio where the advantage is negative, for ``clip=two_sided``.
      task_weight: task to its weight in the loss.
      entropy_bonus: task to what a nat of entropy per token subtracts from its loss.
      importance_cap: largest importance weight of a token whose sampler differed from the policy; 0
        uses no such weights.
    """

    aggregation: Annotated[str, OneOf(aggregations)] = "sequence_mean"
    clip: Annotated[str, OneOf(CLIPS)] = "ppo"
    clip_low: Annotated[float, Interval(ge=0, le=1)] = 0.2
    clip_high: Weight = 0.2
    clip_ceiling: Annotated[float, Interval(ge=1)] = 3.0
    task_weight: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 1.0)
    )
    entropy_bonus: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 0.0)
    )
    importance_cap: Weight = 0.0

    def __post_init__(self):
        if self.clip == "two_sided" and self.clip_ceiling <= 1 + self.clip_high:
            raise FieldError(
                "clip_ceiling",
                f"must be above 1 + clip_high={1 + self.clip_high:g}, where the clip ends; got "
                f"{self.clip_ceiling}. Choose for example 3",
            )
        if 0 < self.importance_cap < 1:
            raise FieldError(
                "importance_cap",
                f"must be 0 (no weights) or at least 1; got {self.importance_cap}. Below 1 it "
                "would shrink tokens that need no weight",
            )


@config_block
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

    guidance: Annotated[str, OneOf(LOG_PROB_GUIDANCE)] = "matched"
    image_alignment: Annotated[str, OneOf(IMAGE_ALIGNMENTS)] = "aligned"
    shared_prefix: tuple[Annotated[str, OneOf(TASKS)], ...] = TASKS
    chunk_length: Count = 0


@config_block
class CurriculumConfig:
    """``config.rl.curriculum``: what measured success changes.

    Attributes:
      success: task to the reward that says whether a sample succeeded, one of the task's rewards;
        "" for a task whose success is not measured.
      success_at: the least value of that reward that is a success.
      difficulty: how the share of samples of a group that succeeded weighs its advantages; one
        for the whole run, or one per stage of ``config.data.stages``.
      history: ``unsolved`` leaves records out of the next epoch whose samples all succeeded.
    """

    success: Annotated[Mapping[str, str], Keys(TASKS, exact=True)] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, "")
    )
    success_at: float = 1.0
    difficulty: Annotated[
        tuple[Annotated[str, OneOf(difficulty_weights)], ...],
        NotEmpty(),
        "Give one for the whole run, or one per stage of config.data.stages",
    ] = ("none",)
    history: Annotated[str, OneOf(HISTORIES)] = "none"

    @property
    def is_used(self) -> bool:
        """Whether success changes anything."""
        return self.history != "none" or set(self.difficulty) != {"none"}


@config_block
class ReferenceConfig:
    """``config.rl.reference``: whether the reference policy of the KL term follows the policy.

    Attributes:
      update_every: steps from one move of the reference to the next; 0 keeps it fixed.
      mix: share of the policy in a reference that has moved.
    """

    update_every: Count = 0
    mix: Annotated[float, Interval(gt=0, le=1), "1 replaces the reference by the policy"] = 0.6
