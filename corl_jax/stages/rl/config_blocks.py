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
    Share,
    Weight,
    config_block,
)
from corl_jax.data.prompt_requests import (
    AUTO,
    CHECK_TEMPLATES,
    PLAN_TEMPLATES,
    RequestTemplateName,
)
from corl_jax.objectives.advantages import PAIRINGS
from corl_jax.objectives.difficulty import difficulty_weights
from corl_jax.objectives.image_credit import CREDITS
from corl_jax.objectives.normalizations import Normalizer, baselines, normalizations
from corl_jax.objectives.policy_gradient import CLIPS as RATIO_CLIPS
from corl_jax.objectives.sampling_distribution import GREEDY_BELOW
from corl_jax.objectives.token_weights import aggregations
from corl_jax.sampling.quantized import SAMPLER_DTYPES

TASKS = ("image", "text")
"""Text-to-image, whose completions are images, and visual question answering, whose are texts."""

WeightPerTask = Annotated[Mapping[str, Weight], Keys(TASKS, exact=True)]

HISTORIES = ("none", "unsolved")
"""Which records an epoch has: all, or those that were not solved when they were sampled last."""

PLAN_WEIGHTINGS = ("joint", "share")
EXTERNAL_IMAGES = ("none", "record_image")
REWARD_AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
"""What comes first where a sample has several rewards, with the names that TRL gives."""

CLIPS = (*RATIO_CLIPS, "cispo", "gspo", "sapo")
"""What bounds the ratio; see ``surrogate.surrogate``."""

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
      minibatches: shuffled parts of a rollout, by prompts; each update trains on the next one. It
        divides ``config.updates_per_step``, and the quotient is the number of epochs. With 1 every
        update trains on the whole rollout.
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
    minibatches: PositiveInt = 1
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
      pass_k: samples per attempt, ``k``, for ``normalization=pass_at_k``; fewer than a group has.
      multi_objective_aggregation: whether the advantage is that of the weighted sum of rewards
        (``sum_then_normalize``), or the sum of the advantages of each reward by itself, whitened
        over the step (``normalize_then_sum``, GDPO).
      resample_rounds: most rounds per step that replace groups without an advantage, as where all
        rewards are equal; 0 keeps them.
    """

    pairing: Annotated[str, OneOf(PAIRINGS)] = "separate"
    pairing_text_weight: Weight = 0.8
    baseline: Annotated[str, OneOf(baselines)] = "mean"
    normalization: Annotated[str, OneOf(normalizations)] = "group"
    pass_k: PositiveInt = 4
    multi_objective_aggregation: Annotated[str, OneOf(REWARD_AGGREGATIONS)] = "sum_then_normalize"
    resample_rounds: Count = 0

    def __post_init__(self):
        if self.normalization == "pass_at_k" and self.baseline != "mean":
            raise FieldError(
                "baseline",
                "must be mean with normalization=pass_at_k, which has a baseline of its own; got "
                f"{self.baseline}",
            )
        if self.sums_normalized_parts and (self.normalization, self.baseline) != ("group", "mean"):
            raise FieldError(
                "multi_objective_aggregation",
                "must be sum_then_normalize unless normalization=group and baseline=mean, which "
                "normalize each reward; got normalize_then_sum with "
                f"normalization={self.normalization} and baseline={self.baseline}",
            )

    @property
    def normalizer(self) -> Normalizer:
        """From sums of rewards to advantages."""
        return Normalizer(self.normalization, self.baseline, self.pass_k)

    @property
    def sums_normalized_parts(self) -> bool:
        """Whether each reward is normalized by itself (GDPO)."""
        return self.multi_objective_aggregation == "normalize_then_sum"


@config_block
class LossConfig:
    """``config.rl.loss``: from advantages to the loss.

    Attributes:
      aggregation: how the losses of tokens are weighted.
      clip: how the ratio of the policy to the sampler is clipped, or what bounds it instead.
      clip_low, clip_high: the ratio is clipped to ``[1 - clip_low, 1 + clip_high]``, for ``clip=ppo``
        and ``two_sided``.
      clip_ceiling: largest ratio where the advantage is negative, for ``clip=two_sided``.
      cispo_cap: largest weight of a token, for ``clip=cispo``: the ratio itself, not its distance
        from 1.
      gspo_clip_low, gspo_clip_high: task to the widths of the region that the ratio of a whole
        completion is clipped to, for ``clip=gspo``. The more tokens, the less that ratio moves.
      sapo_tau_positive, sapo_tau_negative: how fast the weight of a token falls as its ratio leaves
        1, where the advantage is positive and where it is not, for ``clip=sapo``.
      task_weight: task to its weight in the loss.
      entropy_bonus: task to what a nat of entropy per token subtracts from its loss.
      entropy_target: task to the entropy per token, in nats, that a coefficient which may be negative
        steers to (ReasonGen-R1); 0 leaves the entropy alone.
      entropy_rate, entropy_limit: what that coefficient changes per update, and its largest size.
      mask_truncated_completions: whether answers that were cut at their longest length are left out
        of the loss; they still count in their group's mean. Images never are.
      importance_cap: largest importance weight of a token whose sampler differed from the policy; 0
        uses no such weights.
      image_credit: which tokens of an image have its advantage: all (``uniform``); those that
        samples with the other verdict do not share (``contrast``, STAGE); or the first tenth, the
        tenth at the edges of entropy and the tenth that differs most in the group (``third``, GCPO).
    """

    aggregation: Annotated[str, OneOf(aggregations)] = "sequence_mean"
    clip: Annotated[str, OneOf(CLIPS)] = "ppo"
    clip_low: Annotated[float, Interval(ge=0, le=1)] = 0.2
    clip_high: Weight = 0.2
    clip_ceiling: Annotated[float, Interval(ge=1)] = 3.0
    cispo_cap: Annotated[float, Interval(ge=1)] = 5.0
    gspo_clip_low: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 3e-4)
    )
    gspo_clip_high: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 4e-4)
    )
    sapo_tau_positive: Annotated[float, Interval(gt=0)] = 1.0
    sapo_tau_negative: Annotated[float, Interval(gt=0)] = 1.05
    task_weight: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 1.0)
    )
    entropy_bonus: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 0.0)
    )
    entropy_target: WeightPerTask = dataclasses.field(
        default_factory=lambda: dict.fromkeys(TASKS, 0.0)
    )
    entropy_rate: Annotated[float, Interval(gt=0)] = 5e-5
    entropy_limit: Annotated[float, Interval(gt=0)] = 5e-3
    mask_truncated_completions: bool = False
    importance_cap: Weight = 0.0
    image_credit: Annotated[str, OneOf(CREDITS)] = "uniform"

    def __post_init__(self):
        if self.clip == "two_sided" and self.clip_ceiling <= 1 + self.clip_high:
            raise FieldError(
                "clip_ceiling",
                f"must be above 1 + clip_high={1 + self.clip_high:g}, where the clip ends; got "
                f"{self.clip_ceiling}. Choose for example 3",
            )
        for task in TASKS:
            if self.entropy_target[task] and self.entropy_bonus[task]:
                raise FieldError(
                    f"entropy_target.{task}",
                    f"must be 0 where entropy_bonus.{task} is not, since both multiply the entropy; "
                    f"got {self.entropy_target[task]} and {self.entropy_bonus[task]}. Set one to 0",
                )
        if 0 < self.importance_cap < 1:
            raise FieldError(
                "importance_cap",
                f"must be 0 (no weights) or at least 1; got {self.importance_cap}. Below 1 it "
                "would shrink tokens that need no weight",
            )


@config_block
class ExternalConfig:
    """``config.rl.external``: samples that the policy did not draw (RL-PLUS).

    Attributes:
      image: what the last sample of a group of images is: a sample like the others (``none``), or the
        record's real picture (``record_image``), as image tokens.
      exponent: of ``1 - pi``, with which the advantage of a token of such a sample fades as the policy
        becomes sure of it; 0 leaves it whole.
    """

    image: Annotated[str, OneOf(EXTERNAL_IMAGES)] = "none"
    exponent: Weight = 0.5


@config_block
class LogProbsConfig:
    """``config.rl.log_probs``: how log-probs of rollouts are computed for the loss.

    Attributes:
      guidance: ``matched`` takes the distribution of image tokens with the guidance that sampled
        them, ``conditional`` without it, as ULM-R1's code does.
      image_alignment: ``aligned`` reads an image token's log-prob off the state that predicts it,
        ``off_by_one_ulm_r1`` off the state after it, as ULM-R1's code does.
      shared_prefix: tasks whose prompts are read once for all samples of the group; requests for plans
        are read as those of ``text``.
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


@config_block
class PlanConfig:
    """``config.rl.plan``: plans that the policy writes before it draws (T2I-R1, arXiv 2505.00703).

    A prompt has ``group_size`` plans and one image behind each; the image's reward trains both.

    Attributes:
      length: most tokens of a plan; 0 draws without plans.
      prompt_length: width in tokens that requests for plans are padded to.
      template: of the request: ``objects`` (for the embedded world), ``instruct``, ``auto`` (by the
        tokenizer), or a text with ``{prompt}``.
      weighting: ``joint`` weighs the tokens of a plan and its image as one completion, ``share`` each
        by itself.
      share: of the image task's loss that plans have with ``weighting=share``; images have the rest.
    """

    length: Count = 0
    prompt_length: PositiveInt = 256
    template: Annotated[str, RequestTemplateName(PLAN_TEMPLATES)] = AUTO
    weighting: Annotated[str, OneOf(PLAN_WEIGHTINGS)] = "joint"
    share: Share = 0.5


@config_block
class CheckConfig:
    """``config.rl.check``: the policy says whether its own pictures match their prompts.

    The calibration reward of Janus-Pro-R1 (arXiv 2506.01480), without its second drawing.

    Attributes:
      prompts: the first so many image prompts of a step, whose pictures it is asked about, once each;
        0 asks nothing.
      reward: the reward of images that is trusted, with values in [0, 1]. A verdict earns
        ``1 - |reward - [said yes]|``.
      weight: of the verdicts in the image task's loss, beside the 1 of its images.
      prompt_length: width in tokens that questions are padded to, with the tokens of the picture.
      template: of the question: ``objects`` (for the embedded world), ``instruct``, ``auto`` (by the
        tokenizer), or a text with ``{prompt}``.
    """

    prompts: Count = 0
    reward: str = ""
    weight: Weight = 1.0
    prompt_length: PositiveInt = 1024
    template: Annotated[str, RequestTemplateName(CHECK_TEMPLATES)] = AUTO
