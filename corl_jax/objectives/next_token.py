"""Next-token cross entropy, weighted per target token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def next_token_loss(
    logits: Float[Array, "... V"], targets: Int[Array, "..."], weights: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """Weighted sum of ``-log p(target)``.

    Args:
      logits: of the position that predicts each target.
      targets: token ids.
      weights: one per target, 0 where it does not count.

    Returns:
      the loss, and the log-prob of every target, through which gradients also flow.
    """
    # The log-softmax over the vocabulary, then its entry at each target.
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), targets[..., None], -1)[..., 0]
    return -jnp.sum(log_probs * weights), log_probs
