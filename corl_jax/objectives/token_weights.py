"""How much each token counts in the loss: one weight per target token, computed once per step.

The lengths of all completions of the step must be known by then. The loss is a plain weighted sum,
so gradient accumulation is addition, tasks of different lengths combine exactly, and padding rows
vanish. Over the whole step the weights of a task sum to 1, except with ``fixed_length``, by design.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.registry import Registry

# Functions (mask, longest possible completion) to weights. The maximum with 1 in each of them gives
# weights of 0 and not NaN where nothing is left to count.
aggregations: Registry[Callable[[Array, int], Array]] = Registry("loss aggregation")


@aggregations.register("sequence_mean")
def sequence_mean(mask: Bool[Array, "... T"], max_length: int) -> Float[Array, "... T"]:
    """Mean over the tokens of each completion, then over completions (GRPO, first CoRL version)."""
    # Padding rows have no token; they do not count as completions.
    lengths = jnp.sum(mask, -1, keepdims=True)
    sequences = jnp.maximum(jnp.sum(lengths > 0), 1)
    return mask / jnp.maximum(lengths, 1) / sequences


@aggregations.register("token_mean")
def token_mean(mask: Bool[Array, "... T"], max_length: int) -> Float[Array, "... T"]:
    """Mean over all tokens of the step (DAPO)."""
    return mask / jnp.maximum(jnp.sum(mask), 1)


@aggregations.register("fixed_length")
def fixed_length(mask: Bool[Array, "... T"], max_length: int) -> Float[Array, "... T"]:
    """Sum over tokens divided by the longest possible length, mean over completions (Dr. GRPO)."""
    sequences = jnp.maximum(jnp.sum(jnp.any(mask, -1)), 1)
    return mask / (max_length * sequences)


def without_truncated(
    mask: Bool[Array, "... T"], tokens: Int[Array, "... T"], eos_id: int
) -> Bool[Array, "... T"]:
    """The completion mask with all tokens of completions that lack the end token left out.

    Aggregations then count the others alone (``mask_truncated_completions`` of TRL; DAPO's overlong
    filtering).
    """
    # Behind the end token there may be anything; without one every token was sampled.
    return mask & jnp.any(tokens == eos_id, -1, keepdims=True)


def token_weights(
    mask: Bool[Array, "... T"], *, aggregation: str, task_weight: float = 1.0
) -> Float[Array, "... T"]:
    """Weights of all target tokens of one task in one step.

    Args:
      mask: the completion mask: which tokens were sampled (or are targets).
      aggregation: a name in ``aggregations``.
      task_weight: multiplies all weights.
    """
    return task_weight * aggregations[aggregation](mask, mask.shape[-1]).astype(jnp.float32)
