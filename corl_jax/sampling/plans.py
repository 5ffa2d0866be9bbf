"""Prompts that draw behind plans, on the devices: nothing waits for the plans.

The unconditional prompt of guidance loses prompt and plan, as it loses all words.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from corl_jax.core.types import Prompts, Rollout
from corl_jax.data.text_tokenizer import TextTokenizer


def behind_plans(openings: Prompts, plans: Rollout, tokenizer: TextTokenizer) -> Prompts:
    """Prompts that draw behind plans, one for each plan.

    Args:
      openings: ``B`` prompts up to their plans, ``[B, P]``. ``P`` is wide enough for
        ``tokenizer.plan_ending`` too.
      plans: ``G`` plans for each, ``[B, G, T]``.

    Returns:
      ``B * G`` prompts of width ``P + T``, those of a plan's group adjacent.
    """
    return _behind_plans(
        openings,
        plans.tokens,
        plans.mask,
        tokenizer.plan_ending,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _behind_plans(
    openings: Prompts,
    plans: Int[Array, "B G T"],
    plan_mask: Bool[Array, "B G T"],
    ending: tuple[int, ...],
    eos: int,
    pad: int,
) -> Prompts:
    (prompts, width), (_, samples, length) = openings.tokens.shape, plans.shape
    rows = prompts * samples

    # The pieces side by side, with padding between them.
    end = jnp.broadcast_to(jnp.array(ending, jnp.int32), (rows, len(ending)))
    pieces = (jnp.repeat(openings.tokens, samples, 0), plans.reshape(rows, length), end)
    tokens = jnp.concatenate(pieces, 1)
    is_plan = plan_mask & (plans != eos)
    masks = (
        jnp.repeat(openings.mask, samples, 0),
        is_plan.reshape(rows, length),
        jnp.ones(end.shape, bool),
    )
    mask = jnp.concatenate(masks, 1)

    # A stable order of padding before tokens moves all padding to the left.
    order = jnp.argsort(mask, 1, stable=True)[:, -(width + length) :]
    mask = jnp.take_along_axis(mask, order, 1)
    tokens = jnp.where(mask, jnp.take_along_axis(tokens, order, 1), pad)
    return Prompts(tokens, mask)
