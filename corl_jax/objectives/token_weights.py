"""Who counts how much: one weight per target token, filled once, when all lengths of the step are known.

The loss is then a plain weighted sum: gradient accumulation is addition, tasks of different length mix exactly, and
padding rows vanish. Every rule sums to the task's ``share`` over the whole step, except ``fixed_length``, by design.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corl_jax.core.registry import Registry

aggregations: Registry[Callable[[Array, int], Array]] = Registry("loss aggregation")


@aggregations.register("sequence_mean")
def sequence_mean(mask: Bool[Array, "... T"], length: int) -> Float[Array, "... T"]:
    """Mean over a sequence's tokens, then over sequences (GRPO; the first version of CoRL)."""
    lengths = jnp.sum(mask, -1, keepdims=True)
    sequences = jnp.maximum(jnp.sum(lengths > 0), 1)
    return mask / jnp.maximum(lengths, 1) / sequences


@aggregations.register("token_mean")
def token_mean(mask: Bool[Array, "... T"], length: int) -> Float[Array, "... T"]:
    """Every token counts the same over the whole step (DAPO)."""
    return mask / jnp.maximum(jnp.sum(mask), 1)


@aggregations.register("fixed_length")
def fixed_length(mask: Bool[Array, "... T"], length: int) -> Float[Array, "... T"]:
    """Sum over tokens divided by the longest possible completion, mean over sequences (Dr. GRPO)."""
    sequences = jnp.maximum(jnp.sum(jnp.any(mask, -1)), 1)
    return mask / (length * sequences)


def token_weights(
    mask: Bool[Array, "... T"], *, aggregation: str, share: float = 1.0
) -> Float[Array, "... T"]:
    """Weights of all target tokens of one task in one step.

    Args:
      mask: which tokens were sampled (or are targets).
      aggregation: a name in ``aggregations``.
      share: the task's part of the loss.
    """
    return share * aggregations[aggregation](mask, mask.shape[-1]).astype(jnp.float32)
