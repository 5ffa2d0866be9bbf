"""From logits to the distribution that is sampled from. The sampler and the log-probs both use it.

In: conditional logits, unconditional logits where classifier-free guidance is used, and
``SamplingParams``. Out: log-probs ``[..., V]``.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from corl_jax.core.checks.config_block import Interval, Weight, check_value
from corl_jax.core.types import pytree

# Log-prob of a banned id. It is finite, so that the difference of two policies is finite too.
BANNED = -1e30

GREEDY_BELOW = 1e-5
"""Temperatures below it are greedy like 0, as in vLLM (``_SAMPLING_EPS``). Between logits that are
equal a smaller temperature would still choose at random."""


@pytree("top_p", "top_k")
class SamplingParams:
    """How logits become a distribution.

    Guidance scale and temperature are traced, so other values do not compile a new program.

    Attributes:
      guidance_scale: ``w`` of ``u + w (c - u)``, with ``c`` the conditional and ``u``
        the unconditional logits; 1 is the conditional distribution, 0 the unconditional one.
      temperature: logits are divided by it. 0, as all below ``GREEDY_BELOW``, means greedy, with
        log-probs at temperature 1.
      top_p: keep the smallest set of ids whose probability reaches it; 1 keeps all. It is static,
        so that a program with 1 does not sort.
      top_k: keep the ``k`` most likely ids; 0 keeps all. Static.
      banned: bool ``[V]``, True for ids with probability 0; or None.
    """

    guidance_scale: Any = 1.0
    temperature: Any = 1.0
    top_p: float = 1.0
    top_k: int = 0
    banned: Any = None

    @property
    def is_greedy(self) -> Any:
        """bool ``[]``, whether the most likely id is taken; traced, as the temperature is."""
        return self.temperature < GREEDY_BELOW


def check_sampling_params(*, guidance_scale: float, temperature: float, top_p: float = 1.0) -> None:
    """Checks the ranges of sampling parameters.

    Raises:
      FieldError: a negative or non-finite number, or a ``top_p`` outside (0, 1].
    """
    check_value("guidance_scale", guidance_scale, Weight)
    check_value("temperature", temperature, Weight)
    check_value("top_p", top_p, Annotated[float, Interval(gt=0, le=1), "1 keeps all tokens"])


def log_distribution(
    cond_logits: Float[Array, "... V"],
    uncond_logits: Float[Array, "... V"] | None,
    params: SamplingParams,
) -> Float[Array, "... V"]:
    """Log-probs of every id, in float32.

    The order of operations is that of Janus-Pro's sampler (``generation_inference.py``): guidance
    on logits, bans, temperature, top-k, top-p, softmax.
    """
    logits = cond_logits.astype(jnp.float32)

    # Classifier-free guidance: u + w (c - u).
    if uncond_logits is not None:
        uncond = uncond_logits.astype(jnp.float32)
        logits = uncond + params.guidance_scale * (logits - uncond)

    # Bans come before top-k and top-p, so that banned ids take no place in the set that is kept.
    if params.banned is not None:
        logits = jnp.where(params.banned, BANNED, logits)

    # Greedy log-probs are those of temperature 1. The largest logit becomes 0 before the division,
    # which would otherwise round away small differences of logits at a low temperature.
    logits = logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    logits = logits / jnp.where(params.is_greedy, 1.0, params.temperature)

    # Top-k keeps ids that tie with the k-th.
    if params.top_k:
        kth_logit = jax.lax.top_k(logits, params.top_k)[0][..., -1:]
        logits = jnp.where(logits < kth_logit, BANNED, logits)
    if params.top_p < 1:
        logits = jnp.where(_outside_nucleus(logits, params.top_p), BANNED, logits)

    # The log-softmax of logits whose largest is 0. It can take banned ids below BANNED; all of them
    # get the same log-prob.
    log_probs = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
    return jnp.maximum(log_probs, BANNED)


def _outside_nucleus(logits: Float[Array, "... V"], top_p: float) -> Bool[Array, "... V"]:
    """True for ids outside the smallest set whose probability reaches ``top_p``."""
    sorted_probs = jnp.sort(jax.nn.softmax(logits, -1), -1, descending=True)

    # An id is in the set if the more likely ids do not reach top_p by themselves.
    preceding_mass = jnp.cumsum(sorted_probs, -1) - sorted_probs
    smallest_kept = jnp.min(
        jnp.where(preceding_mass < top_p, sorted_probs, jnp.inf), -1, keepdims=True
    )
    return jax.nn.softmax(logits, -1) < smallest_kept


def sample_tokens(
    keys: Key[Array, "N"], log_probs: Float[Array, "N V"], params: SamplingParams
) -> tuple[Int[Array, "N"], Float[Array, "N"]]:
    """Samples one id per row; takes the most likely one where ``params.is_greedy``.

    Args:
      keys: one key per row.
      log_probs: from ``log_distribution``.
      params: the parameters with which ``log_probs`` was computed.

    Returns:
      ids, and their log-probs.
    """
    return sample_with_noise(gumbel_noise(keys, log_probs.shape[-1]), log_probs, params)


def gumbel_noise(keys: Key[Array, "N"], size: int) -> Float[Array, "N V"]:
    """Float32 noise for the Gumbel-max trick, one row of ``size`` numbers per key.

    With this noise added to log-probs, the largest of ``size`` ids is a sample of them.
    """
    return jax.vmap(lambda key: jax.random.gumbel(key, (size,), jnp.float32))(keys)


def sample_with_noise(
    noise: Float[Array, "N V"], log_probs: Float[Array, "N V"], params: SamplingParams
) -> tuple[Int[Array, "N"], Float[Array, "N"]]:
    """``sample_tokens`` with noise from ``gumbel_noise``, which greedy sampling ignores."""
    # Gumbel-max trick. The temperature is traced, so the choice is a ``where`` and not an ``if``.
    tokens = jnp.argmax(log_probs + jnp.where(params.is_greedy, 0, noise), -1).astype(jnp.int32)
    return tokens, token_log_probs(log_probs, tokens)


def token_log_probs(
    log_probs: Float[Array, "... V"], tokens: Int[Array, "..."]
) -> Float[Array, "..."]:
    """The log-prob of each token."""
    return jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]


def entropy(log_probs: Float[Array, "... V"]) -> Float[Array, "..."]:
    """Entropy in nats."""
    # Banned ids add nothing: their probability is 0 and their log-prob finite.
    return -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
