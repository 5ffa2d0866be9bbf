"""Whether sampler and scorer agree: the same tokens, the same log-probs, one by one.

In: a policy's sampler, params and tokenizer. Out: the largest gap per head and guidance, in nats.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from corl_jax.core.types import Params, PromptBatch, Rollout
from corl_jax.data.shapes.examples import example
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import largest_difference
from corl_jax.sampling.quantized import quantized_policy
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

TOLERANCE = 1e-4
"""Largest gap that rounding in float32 explains."""
GUIDANCES = (1.0, 2.0)
PROMPTS, SAMPLES, ANSWER_TOKENS = 4, 2, 24


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Largest gaps, under the names ``image@w=1``, ``image@w=2``, ``text``.

    Attributes:
      scorer: sampler against scorer.
      prefix: scorer with shared prompts against scorer with repeated prompts.
    """

    scorer: dict[str, float]
    prefix: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether rounding explains every gap; a gap that is no number never does."""
        return self.prefix_ok and all(gap <= TOLERANCE for gap in self.scorer.values())

    @property
    def prefix_ok(self) -> bool:
        """The same of the two ways of scoring alone, where the sampler was made to differ."""
        return all(gap <= TOLERANCE for gap in self.prefix.values())


def measure_agreement(
    sampler: PolicyFns,
    params: Params,
    tokenizer: TextTokenizer,
    seed: int = 0,
    *,
    weights: str = "same",
    cache: str = "same",
) -> Agreement:
    """Samples from left-padded prompts of unequal lengths and scores what was sampled, in float32 throughout.

    Args:
      sampler: of a model that computes in float32.
      params: of the whole model.
      tokenizer: its text tokenizer.
      seed: of sampling.
      weights, cache: how the sampler holds them, see ``sampling.quantized``; the scorer holds them as they are.
    """
    drawer, lighten = quantized_policy(sampler, params, weights=weights, cache=cache)
    light = lighten(params)
    records = [example("test", i) for i in range(PROMPTS)]
    drawing = TextToImage(tokenizer).ask(records)
    asking = VisualQA(tokenizer, sampler.cfg.image_tokens, sampler.cfg.vision.image_size).ask(
        records
    )
    keys = prompt_keys(seed, "doctor", np.arange(PROMPTS), SAMPLES)
    scorer, prefix = {}, {}
    with jax.default_matmul_precision("highest"):
        for weight in GUIDANCES:
            name, guided = f"image@w={weight:g}", weight != 1
            sampling = sampler.sampling("image", guidance=weight)
            rollout = drawer.sample_images(light, drawing.prompts, keys, sampling, guided=guided)
            scorer[name], prefix[name] = _gaps(sampler, params, drawing, rollout, sampling, guided)
        sampling = sampler.sampling("text")
        rollout = drawer.sample_text(light, asking.prompts, keys, sampling, ANSWER_TOKENS)
        scorer["text"], prefix["text"] = _gaps(sampler, params, asking, rollout, sampling, False)
    return Agreement(scorer, prefix)


def _gaps(
    sampler: PolicyFns,
    params: Params,
    asked: PromptBatch,
    rollout: Rollout,
    sampling: SamplingParams,
    guided: bool,
) -> tuple[float, float]:
    repeated, shared = (
        sampler.log_probs(
            params, asked.prompts, rollout, sampling, guided=guided, shared_prefix=how
        )
        for how in (False, True)
    )
    first = largest_difference(rollout.log_probs, repeated, rollout.mask)
    second = largest_difference(shared, repeated, rollout.mask)
    return float(first), float(second)
