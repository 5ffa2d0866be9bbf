"""Next-token cross entropy. In: log-probs of the targets and a weight per target; out: a sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def next_token_loss(
    logits: Float[Array, "... V"], targets: Int[Array, "..."], weights: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """Weighted sum of ``-log p(target)``, and the log-probs themselves (no gradient taken out)."""
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), targets[..., None], -1)[..., 0]
    return -jnp.sum(log_probs * weights), log_probs
