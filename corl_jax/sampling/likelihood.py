"""How likely a policy finds a text behind an image, and an image behind a text.

Both are means over tokens of one teacher-forced pass under the plain softmax of the policy: at
temperature 1, without guidance and without banned ids, so that a policy that knows nothing gives
``-log V`` and ``-log I``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.trees import bind
from corl_jax.core.types import Modality, Params, Prompts
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.generate import PIXELS_AT_ONCE, PolicyFns, encode_images
from corl_jax.sampling.log_probs import LogProbOptions, log_probs_and_entropy

CHUNK_LENGTHS: dict[Modality, int] = {"text": 16, "image": 144}
"""Tokens that have logits at a time: a text vocabulary is several times as large as a codebook."""


@functools.partial(jax.jit, static_argnums=(0, 5))
def mean_log_probs(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    tokens: Int[Array, "N T"],
    mask: Bool[Array, "N T"],
    modality: Modality,
) -> Float[Array, "N"]:
    """Mean log-prob of the tokens behind each prompt, in nats per token.

    Args:
      prompts: ``N`` rows.
      tokens: what follows them.
      mask: which of them count; one or more in every row, and what is behind them is padding.
    """
    model = bind(policy.graphdef, params)
    sampling = SamplingParams(jnp.float32(1), jnp.float32(1), 1.0, 0, None)
    options = LogProbOptions(chunk_length=CHUNK_LENGTHS[modality])
    log_probs, _ = log_probs_and_entropy(
        model, prompts, tokens[:, None], sampling, policy.ids, modality, options
    )
    return jnp.mean(log_probs[:, 0], 1, where=mask)


@functools.partial(jax.jit, static_argnums=0)
def mean_image_log_probs(
    policy: PolicyFns, params: Params, prompts: Prompts, images: Float[Array, "N H W 3"]
) -> Float[Array, "N"]:
    """``mean_log_probs`` of the image tokens of ``images``, in [-1, 1], which ``params`` encode.

    The image tokenizer is never trained by reinforcement learning, so all judges see one code.
    """
    model = bind(policy.graphdef, params)
    tokens = encode_images(model, images, PIXELS_AT_ONCE // policy.cfg.image_size**2)
    return mean_log_probs(policy, params, prompts, tokens, jnp.ones_like(tokens, bool), "image")
