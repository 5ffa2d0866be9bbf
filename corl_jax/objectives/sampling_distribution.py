"""The one function that turns logits into the distribution that is sampled from; sampler and scorer both call it.

In: conditional logits, unconditional logits where guidance is used, and a ``SamplingParams``. Out: log-probs ``[..., V]``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.types import pytree

BANNED = -1e30
"""Log-prob of a banned id: finite, so that differences of two policies stay finite."""


@pytree("top_p", "top_k")
class SamplingParams:
    """How logits become a distribution. Guidance and temperature are traced, so changing them compiles nothing.

    Attributes:
      guidance: weight ``w`` of ``u + w (c - u)``; 1 is the conditional distribution, 0 the unconditional one.
      temperature: logits are divided by it; 0 means greedy, scored at temperature 1.
      top_p: keep the smallest set of ids whose probability reaches it; 1 keeps all. Static, so that 1 sorts nothing.
      top_k: keep the ``k`` most likely ids; 0 keeps all.
      banned: bool ``[V]`` of ids with probability 0, or None.
    """

    guidance: Any = 1.0
    temperature: Any = 1.0
    top_p: float = 1.0
    top_k: int = 0
    banned: Any = None


def check_sampling_params(*, guidance: float, temperature: float, top_p: float = 1.0) -> None:
    """Refuses settings that no sampler means.

    Raises:
      UserError: a negative or non-finite number, or top-p outside (0, 1].
    """
    for name, value in (("guidance", guidance), ("temperature", temperature)):
        if not 0 <= value < float("inf"):
            raise UserError(
                f"{name}={value} is out of range; expected a finite number of at least 0"
            )
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is out of range; expected more than 0 and at most 1")


def log_distribution(
    conditional: Float[Array, "... V"],
    unconditional: Float[Array, "... V"] | None,
    sampling: SamplingParams,
) -> Float[Array, "... V"]:
    """Log-probs of every id, in float32.

    Order of operations, as in the sampler of Janus-Pro (``generation_inference.py``): guidance on logits, bans,
    temperature, top-k, top-p, softmax.
    """
    logits = conditional.astype(jnp.float32)
    if unconditional is not None:
        base = unconditional.astype(jnp.float32)
        logits = base + sampling.guidance * (logits - base)
    if sampling.banned is not None:
        logits = jnp.where(sampling.banned, BANNED, logits)
    logits = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)
    if sampling.top_k:
        kth = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < kth, BANNED, logits)
    if sampling.top_p < 1:
        logits = jnp.where(_outside_top_p(logits, sampling.top_p), BANNED, logits)
    return jnp.maximum(jax.nn.log_softmax(logits, -1), BANNED)


def _outside_top_p(logits: Float[Array, "... V"], top_p: float) -> Bool[Array, "... V"]:
    """Ids outside the nucleus."""
    ordered = jnp.sort(jax.nn.softmax(logits, -1), -1, descending=True)
    before = jnp.cumsum(ordered, -1) - ordered
    smallest = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), -1, keepdims=True)
    return jax.nn.softmax(logits, -1) < smallest


def sample_tokens(
    keys: Any, log_probs: Float[Array, "N V"], sampling: SamplingParams
) -> tuple[Int[Array, "N"], Float[Array, "N"]]:
    """One id per row with its log-prob; the most likely one at temperature 0.

    Args:
      keys: ``N`` keys, one per row.
      log_probs: from ``log_distribution``.
      sampling: the same settings.
    """
    return sample_with_noise(gumbel_noise(keys, log_probs.shape[-1]), log_probs, sampling)


def gumbel_noise(keys: Any, size: int) -> Float[Array, "N V"]:
    """Gumbel noise that turns the most likely of ``size`` ids into a sample; one row per key, float32."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (size,), jnp.float32))(keys)


def sample_with_noise(
    noise: Float[Array, "N V"], log_probs: Float[Array, "N V"], sampling: SamplingParams
) -> tuple[Int[Array, "N"], Float[Array, "N"]]:
    """``sample_tokens`` with noise that was made before; the noise is left out at temperature 0."""
    tokens = jnp.argmax(log_probs + jnp.where(sampling.temperature > 0, noise, 0), -1).astype(
        jnp.int32
    )
    return tokens, token_log_probs(log_probs, tokens)


def token_log_probs(
    log_probs: Float[Array, "... V"], tokens: Int[Array, "..."]
) -> Float[Array, "..."]:
    """Log-prob of each chosen id."""
    return jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]


def entropy(log_probs: Float[Array, "... V"]) -> Float[Array, "..."]:
    """Entropy in nats; banned ids add nothing."""
    return -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
