"""Where the tokens of prompts and completions are: positions, masks, and unconditional prompts.

Prompts are padded on the left, so that every completion starts in the same column.
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
    """Token ids that shape programs, read from the tokenizer of the checkpoint.

    Attributes:
      pad, eos: padding and end of a completion.
      image: placeholder of the tokens of an image to understand.
      banned: ids that are never sampled as text.
    """

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
        """True at the banned ids."""
        return jnp.zeros(vocab_size, bool).at[jnp.array(self.banned, jnp.int32)].set(True)


def prompt_positions(mask: Bool[Array, "B P"]) -> Int[Array, "B P"]:
    """Positions that count tokens from 0; padding has position 0, but no token attends to it."""
    return jnp.maximum(jnp.cumsum(mask, 1) - 1, 0).astype(jnp.int32)


def prompt_mask(mask: Bool[Array, "B P"]) -> Bool[Array, "B P P"]:
    """Causal attention that skips padding."""
    length = mask.shape[1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]


def unconditional_tokens(
    tokens: Int[Array, "B P"], mask: Bool[Array, "B P"], pad: int
) -> Int[Array, "B P"]:
    """Prompts without their words, for classifier-free guidance.

    Every token but the first (begin of sentence) and the last (begin of image) becomes the padding
    token, which the model attends to here. See docs/decisions.md#unconditional-prompt.
    """
    columns = jnp.arange(tokens.shape[1])
    first = jnp.argmax(mask, 1)[:, None]
    is_kept = (columns == first) | (columns == tokens.shape[1] - 1)
    return jnp.where(is_kept, tokens, pad)


def with_unconditional_prompts(prompts: Prompts, pad: int) -> Prompts:
    """``2 B`` prompts: behind each prompt the same without its words.

    Neighbours are stored on one device, so that guidance compares their logits without exchanging
    anything between devices.
    """
    uncond = unconditional_tokens(prompts.tokens, prompts.mask, pad)
    tokens = jnp.stack([prompts.tokens, uncond], 1).reshape(-1, uncond.shape[1])
    return Prompts(tokens, jnp.repeat(prompts.mask, 2, 0))


def split_cfg(x: jax.Array, prompts: int) -> tuple[jax.Array, jax.Array]:
    """Conditional and unconditional rows of ``x``.

    Args:
      x: ``[2 N, ...]``, samples of ``with_unconditional_prompts``.
      prompts: ``B``, conditional prompts.

    Returns:
      two arrays ``[N, ...]``.
    """
    streams = x.reshape(prompts, 2, -1, *x.shape[1:])
    cond, uncond = (streams[:, i].reshape(-1, *x.shape[1:]) for i in (0, 1))
    return cond, uncond


def repeat_for_cfg(x: jax.Array, prompts: int) -> jax.Array:
    """``x [N, ...]`` for conditional and unconditional rows, ``[2 N, ...]``.

    ``split_cfg`` of the result is ``x`` and ``x``.
    """
    groups = x.reshape(prompts, 1, -1, *x.shape[1:])
    return jnp.repeat(groups, 2, 1).reshape(-1, *x.shape[1:])
