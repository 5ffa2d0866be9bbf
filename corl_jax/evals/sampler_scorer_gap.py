"""Checks that sampling and teacher forcing agree on the log-prob of every token.

The sampler computes log-probs one token at a time with a KV cache. The scorer computes them for
complete sequences (teacher forcing). The same model must give the same values both ways.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from corl_jax.core.types import PromptBatch, Rollout
from corl_jax.data.shapes.examples import example
from corl_jax.evals.config import EvalPolicy
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.log_probs import LogProbOptions, largest_difference
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

TOLERANCE = 1e-4
"""Largest gap, in nats, that rounding in float32 explains."""
GUIDANCE_SCALES = (1.0, 2.0)
PROMPTS, SAMPLES, ANSWER_TOKENS = 4, 2, 24


@dataclasses.dataclass(frozen=True)
class LogProbGaps:
    """Largest gaps between log-probs in nats, by ``image@w=1``, ``image@w=2`` and ``text``.

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
    # The sampler may be quantized; the scorer below is always the policy itself.
    fns = policy.fns
    specs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in policy.params.items()
    }
    sampler, quantize = quantized_policy(
        fns, specs, weights_dtype=weights_dtype, cache_dtype=cache_dtype
    )
    sampler_params = quantize(policy.params)

    # Captions and questions of different lengths, so that padding is part of the check.
    records = [example("test", i) for i in range(PROMPTS)]
    image_prompts = TextToImage(policy.tokenizer).make_prompts(records)
    visual_qa = VisualQA(policy.tokenizer, fns.cfg.image_tokens, fns.cfg.image_size)
    text_prompts = visual_qa.make_prompts(records)
    keys = prompt_keys(seed, "doctor", np.arange(PROMPTS), SAMPLES)

    # Images with and without guidance, then text.
    sampler_gaps: dict[str, float] = {}
    prefix_gaps: dict[str, float] = {}
    # TPUs multiply float32 in bfloat16 by default, which would hide a real difference.
    with jax.default_matmul_precision("highest"):
        for scale in GUIDANCE_SCALES:
            # Scale 1 skips the unconditional prompts, as in training.
            name, guided = f"image@w={scale:g}", scale != 1
            sampling = fns.sampling_params("image", guidance=scale)
            rollout = sampler.sample_images(
                sampler_params, image_prompts.prompts, keys, sampling, guided=guided
            )
            sampler_gaps[name], prefix_gaps[name] = _gaps(
                policy, image_prompts, rollout, sampling, guided
            )

        sampling = fns.sampling_params("text")
        rollout = sampler.sample_text(
            sampler_params, text_prompts.prompts, keys, sampling, ANSWER_TOKENS
        )
        sampler_gaps["text"], prefix_gaps["text"] = _gaps(
            policy, text_prompts, rollout, sampling, guided=False
        )
    return LogProbGaps(sampler_gaps, prefix_gaps)


def _gaps(
    policy: EvalPolicy,
    prompt_batch: PromptBatch,
    rollout: Rollout,
    sampling: SamplingParams,
    guided: bool,
) -> tuple[float, float]:
    """Largest gap between sampler and scorer, and between the scorers with and without sharing."""
    # The same tokens, teacher-forced in two ways.
    repeated, shared = (
        policy.fns.log_probs(
            policy.params,
            prompt_batch.prompts,
            rollout,
            sampling,
            LogProbOptions(guided=guided, shared_prefix=shared_prefix),
        )
        for shared_prefix in (False, True)
    )
    sampler_gap = largest_difference(rollout.log_probs, repeated, rollout.mask)
    prefix_gap = largest_difference(shared, repeated, rollout.mask)
    return float(sampler_gap), float(prefix_gap)
