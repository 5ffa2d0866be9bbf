"""Checks that sampling and teacher forcing agree on the log-prob of every token.

The sampler computes log-probs one token at a time with a KV cache. The scorer computes them for
complete sequences (teacher forcing). The same model must give the same values both ways: in float32
up to the last digits, which tells a mistake from rounding, and in bfloat16 up to what rounding costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.types import Prompts, Rollout
from corl_jax.data.plans import Plans, plan_openings
from corl_jax.data.shapes.examples import example
from corl_jax.evals.config import EvalPolicy
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.log_probs import LogProbOptions, largest_difference
from corl_jax.sampling.plans import behind_plans
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

TOLERANCE = 1e-4
"""Largest gap, in nats, that rounding in float32 explains."""
GUIDANCE_SCALES = (1.0, 2.0)
PROMPTS, SAMPLES, ANSWER_TOKENS = 4, 2, 24
RATIO_MARGIN = 0.2
"""Ratios farther from 1 count as outside; it is PPO's margin for clipping."""


@dataclasses.dataclass(frozen=True)
class LogProbGaps:
    """Largest gaps between log-probs in nats, by ``image@w=1``, ``image@w=2``, ``text`` and so on.

    Attributes:
      sampler: sampler against scorer.
      shared_prefix: scorer with the prompt shared by its samples against scorer with the prompt
        repeated for each.
    """

    sampler: dict[str, float]
    shared_prefix: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether rounding explains every gap; a gap of NaN counts as unexplained."""
        return self.shared_prefix_ok and all(gap <= TOLERANCE for gap in self.sampler.values())

    @property
    def shared_prefix_ok(self) -> bool:
        """The same for the two scorers alone, for a sampler that differs on purpose (int8)."""
        return all(gap <= TOLERANCE for gap in self.shared_prefix.values())


@dataclasses.dataclass(frozen=True)
class RoundingGap:
    """How far apart the sampler and the scorer of the loss are, over all tokens.

    Attributes:
      mean: absolute difference of log-probs, nats.
      outside: share of tokens whose ratio of probabilities is not within ``1 +- RATIO_MARGIN``.
    """

    mean: float
    outside: float


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Samples of one kind with their log-probs.

    Attributes:
      name: of the kind.
      mask: which tokens count.
      sampler: log-probs of the sampler.
      scorers: log-probs of the scorer, with the options of each.
    """

    name: str
    mask: Bool[Array, "B G T"]
    sampler: Float[Array, "B G T"]
    scorers: tuple[Float[Array, "B G T"], ...]


def measure_log_prob_gaps(
    policy: EvalPolicy, seed: int = 0, *, weights_dtype: str = "same", cache_dtype: str = "same"
) -> LogProbGaps:
    """Samples from left-padded prompts of unequal lengths and recomputes the log-probs, in float32.

    Args:
      policy: its model must compute in float32.
      seed: of sampling.
      weights_dtype, cache_dtype: of the sampler's weights and KV cache, see ``sampling.quantized``;
        the scorer always uses the policy's own.
    """
    sampler_gaps: dict[str, float] = {}
    prefix_gaps: dict[str, float] = {}

    # TPUs multiply float32 in bfloat16 by default, which would hide a real difference.
    with jax.default_matmul_precision("highest"):
        for scored in _score_samples(
            policy,
            GUIDANCE_SCALES,
            (PROMPTS, SAMPLES),
            seed,
            (weights_dtype, cache_dtype),
            shared_prefix=(False, True),
        ):
            repeated, shared = scored.scorers
            sampler_gap = largest_difference(scored.sampler, repeated, scored.mask)
            prefix_gap = largest_difference(shared, repeated, scored.mask)
            sampler_gaps[scored.name] = float(sampler_gap)
            prefix_gaps[scored.name] = float(prefix_gap)
    return LogProbGaps(sampler_gaps, prefix_gaps)


def measure_rounding_gaps(
    policy: EvalPolicy,
    guidance: float,
    seed: int = 0,
    *,
    prompts: int = 8,
    samples: int = 4,
    weights_dtype: str = "same",
    cache_dtype: str = "same",
) -> dict[str, RoundingGap]:
    """What rounding costs in the dtype of ``policy``, by ``image@w=...`` and ``text``.

    Args:
      guidance: scale of classifier-free guidance, which multiplies what rounding does to logits.
      prompts, samples: how many, and of each; a mean over tokens wants more than a largest gap.
      seed, weights_dtype, cache_dtype: see ``measure_log_prob_gaps``.
    """
    gaps = {}
    for scored in _score_samples(
        policy,
        (guidance,),
        (prompts, samples),
        seed,
        (weights_dtype, cache_dtype),
        shared_prefix=(True,),
    ):
        log_ratio = (np.asarray(scored.scorers[0]) - np.asarray(scored.sampler))[
            np.asarray(scored.mask)
        ]
        is_outside = np.abs(np.expm1(log_ratio)) > RATIO_MARGIN
        gaps[scored.name] = RoundingGap(float(np.abs(log_ratio).mean()), float(is_outside.mean()))
    return gaps


def _score_samples(
    policy: EvalPolicy,
    guidance_scales: Sequence[float],
    rows: tuple[int, int],
    seed: int,
    sampler_dtypes: tuple[str, str],
    shared_prefix: Sequence[bool],
) -> Iterator[_Scored]:
    """Images at each guidance scale, then texts, then plans and images behind them.

    Args:
      rows: prompts, and samples of each.
      sampler_dtypes: of the sampler's weights and of its cache.
      shared_prefix: an option of the scorer for each time that it scores.
    """
    # The sampler may be quantized; the scorer below is always the policy itself.
    fns = policy.fns
    specs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in policy.params.items()
    }
    weights_dtype, cache_dtype = sampler_dtypes
    sampler, quantize = quantized_policy(
        fns, specs, weights_dtype=weights_dtype, cache_dtype=cache_dtype
    )
    sampler_params = quantize(policy.params)

    # Captions and questions of different lengths, so that padding is part of the check.
    prompts, samples = rows
    records = [example("test", i) for i in range(prompts)]
    image_prompts = TextToImage(policy.tokenizer).make_prompts(records).prompts
    visual_qa = VisualQA(policy.tokenizer, fns.cfg.image_tokens, fns.cfg.image_size)
    text_prompts = visual_qa.make_prompts(records).prompts
    keys = prompt_keys(seed, "doctor", np.arange(prompts), samples)

    def score(
        name: str, prompts: Prompts, rollout: Rollout, sampling: SamplingParams, guided: bool
    ) -> _Scored:
        """The same tokens, teacher-forced."""
        scorers = tuple(
            fns.log_probs(
                policy.params,
                prompts,
                rollout,
                sampling,
                LogProbOptions(guided=guided, shared_prefix=is_shared),
            )
            for is_shared in shared_prefix
        )
        return _Scored(name, rollout.mask, rollout.log_probs, scorers)

    for scale in guidance_scales:
        # Scale 1 skips the unconditional prompts, as in training.
        guided = scale != 1
        sampling = fns.sampling_params("image", guidance=scale)
        rollout = sampler.sample_images(
            sampler_params, image_prompts, keys, sampling, guided=guided
        )
        yield score(f"image@w={scale:g}", image_prompts, rollout, sampling, guided)

    sampling = fns.sampling_params("text")
    rollout = sampler.sample_text(sampler_params, text_prompts, keys, sampling, ANSWER_TOKENS)
    yield score("text", text_prompts, rollout, sampling, False)

    # A plan, and an image behind each; together one sample of ``config.rl.plan``.
    planned, captions = Plans(ANSWER_TOKENS), [record.prompt for record in records]
    requests = planned.requests(policy.tokenizer, captions)
    plans = sampler.sample_text(sampler_params, requests, keys, sampling, planned.length)
    yield score("plan", requests, plans, sampling, False)

    scale = guidance_scales[-1]
    sampling = fns.sampling_params("image", guidance=scale)
    behind = behind_plans(plan_openings(policy.tokenizer, captions), plans, policy.tokenizer)
    rollout = sampler.sample_images(
        sampler_params, behind, keys.reshape(-1, 1), sampling, guided=scale != 1
    )
    yield score(f"image behind plan@w={scale:g}", behind, rollout, sampling, scale != 1)
