"""Where every token of a prompt and its completions sits: positions, masks, and the prompt that says nothing.

In: left-padded prompts and numbers of samples. Out: integer positions and boolean masks for the trunk.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from corl_jax.core.types import Prompts
from corl_jax.data.text_tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True)
class SpecialTokenIds:
    """Ids that shape programs, resolved from the checkpoint's tokenizer; ``banned`` never appear in sampled text."""

    pad: int
    eos: int
    image: int
    banned: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: TextTokenizer, vocab_size: int) -> SpecialTokenIds:
        """The ids of ``tokenizer`` for a text head of ``vocab_size``."""
        banned = tokenizer.banned_text_ids(vocab_size).nonzero()[0]
        return cls(
            tokenizer.pad_id, tokenizer.eos_id, tokenizer.image_id, tuple(int(i) for i in banned)
        )

    def banned_mask(self, vocab_size: int) -> Bool[Array, "V"]:
        """Bool ``[V]``."""
        return jnp.zeros(vocab_size, bool).at[jnp.array(self.banned, jnp.int32)].set(True)


def prompt_positions(mask: Bool[Array, "B P"]) -> Int[Array, "B P"]:
    """Positions that count real tokens from 0; padding sits at 0, unseen."""
    return jnp.maximum(jnp.cumsum(mask, 1) - 1, 0).astype(jnp.int32)


def prompt_mask(mask: Bool[Array, "B P"]) -> Bool[Array, "B P P"]:
    """Causal, and blind to padding."""
    length = mask.shape[1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]


def unconditional_tokens(
    tokens: Int[Array, "B P"], mask: Bool[Array, "B P"], pad: int
) -> Int[Array, "B P"]:
    """The prompt without its words: all but the first and last real token become padding that is attended to.

    Equal to replacing before padding, so that BOS survives in every row (decisions 23).
    """
    column = jnp.arange(tokens.shape[1])
    first = jnp.argmax(mask, 1)[:, None]
    keep = (column == first) | (column == tokens.shape[1] - 1)
    return jnp.where(keep, tokens, pad)


def with_unconditional_prompts(prompts: Prompts, pad: int) -> Prompts:
    """Behind each of ``B`` prompts the one without its words: ``2 B``, so that guidance compares on one device."""
    nothing = unconditional_tokens(prompts.tokens, prompts.mask, pad)
    tokens = jnp.stack([prompts.tokens, nothing], 1).reshape(-1, nothing.shape[1])
    return Prompts(tokens, jnp.repeat(prompts.mask, 2, 0))


def split_cfg(x: jax.Array, prompts: int) -> tuple[jax.Array, jax.Array]:
    """Conditional and unconditional rows ``[N, ...]`` of ``x [2 N, ...]``, which are samples of ``with_unconditional_prompts``."""
    both = x.reshape(prompts, 2, -1, *x.shape[1:])
    heard, silent = (both[:, stream].reshape(-1, *x.shape[1:]) for stream in (0, 1))
    return heard, silent


def repeat_for_cfg(x: jax.Array, prompts: int) -> jax.Array:
    """Rows ``[2 N, ...]`` for both streams of ``x [N, ...]``; ``split_cfg`` would give ``x`` and ``x``."""
    each = x.reshape(prompts, 1, -1, *x.shape[1:])
    return jnp.repeat(each, 2, 1).reshape(-1, *x.shape[1:])
