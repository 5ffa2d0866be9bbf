"""The scorer: log-probs of given completions in one teacher-forced pass, under the distribution they were sampled from.

In: a bound model, prompts, completions. Out: log-probs and entropies ``[B, G, T]``. The distribution is made by
``objectives.sampling_distribution.log_distribution``, the same function that the sampler
calls, over ``chunk`` tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from corl_jax.core.per_device import batch_axes_spec, per_device
from corl_jax.core.types import Modality, Prompts
from corl_jax.models.janus.model import Janus
from corl_jax.objectives.sampling_distribution import (
    SamplingParams,
    entropy,
    log_distribution,
    token_log_probs,
)
from corl_jax.sampling.prompt_layout import (
    SpecialTokenIds,
    prompt_mask,
    prompt_positions,
    split_cfg,
    with_unconditional_prompts,
)


def log_probs_and_entropy(
    model: Janus,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    *,
    modality: Modality,
    guided: bool = False,
    shared_prefix: bool = False,
    chunk: int = 0,
    aligned: bool = True,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Scores ``G`` completions of each of ``B`` prompts.

    Args:
      sampling: what the sampler used.
      ids: special ids.
      modality: which head, and how completions are embedded.
      guided: score pictures under the guided distribution; runs the unconditional prompt as well.
      shared_prefix: read each prompt once, all its completions behind it; otherwise once per sample. The same numbers
        up to rounding.
      chunk: at most so many tokens of every completion have logits at a time, see ``map_in_chunks``; 0 takes all at once.
      aligned: whether a token is scored by the state that predicts it; see ``completion_states``.

    Returns:
      log-prob of every token and entropy of the distribution it was drawn from.
    """

    asked, written = prompts, tokens
    if guided:  # both streams in one pass
        asked, written = with_unconditional_prompts(prompts, ids.pad), jnp.repeat(tokens, 2, 0)
    how: dict[str, Any] = {"modality": modality, "shared_prefix": shared_prefix, "aligned": aligned}
    states = completion_states(model, asked, written, ids, **how)
    heard, silent = split_cfg(states, len(tokens)) if guided else (states, None)
    graphdef, head = nnx.split(
        model.gen_head if modality == "image" else model.language_model.lm_head
    )

    def read(whole: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        (head, sampling), (heard, silent, chosen) = whole, rows
        to_logits = nnx.merge(graphdef, head)
        log_probs = log_distribution(
            to_logits(heard), None if silent is None else to_logits(silent), sampling
        )
        return token_log_probs(log_probs, chosen), entropy(log_probs)

    held = jax.tree.map(_resting, head, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return map_in_chunks(
        read, (head, sampling), (heard, silent, tokens), chunk, (held, batch_axes_spec(()))
    )


def _resting(parameter: nnx.Variable) -> PartitionSpec:
    return batch_axes_spec(parameter.get_metadata()["logical"])


def map_in_chunks(
    read: Callable[[Any, Any], Any], whole: Any, rows: Any, chunk: int, spread: Any
) -> Any:
    """``read(whole, rows)`` over at most ``chunk`` positions at a time: what it makes of them never exists for all.

    Each chunk is made anew in the backward pass, and the gradient of ``whole`` adds up over the chunks in its own type,
    float32 for parameters. The batch is not cut, so rows stay on their devices; those see one gathering of ``whole``
    and one sum of its gradient, not one per chunk.

    Args:
      read: position by position, to arrays ``[..., T]``.
      whole: parameters and settings.
      rows: pytree of ``[B, G, T, ...]``.
      chunk: 0, or no less than ``T``, reads all at once.
      spread: how ``whole`` lies on the batch axes, see ``per_device``.
    """
    batch, group, length = jax.tree.leaves(rows)[0].shape[:3]
    if not 0 < chunk < length:
        return read(whole, rows)
    count = -(-length // chunk)
    size = -(-length // count)  # nearly even chunks, so that little is read in vain

    def cut(leaf: jax.Array) -> jax.Array:
        flat = leaf.reshape(batch * group, length, *leaf.shape[3:])
        even = jnp.pad(flat, [(0, 0), (0, count * size - length), *[(0, 0)] * (flat.ndim - 2)])
        return even.reshape(batch * group, count, size, *flat.shape[2:])

    def loop(whole: Any, parts: Any) -> Any:
        turns = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), parts)
        out = jax.lax.map(jax.checkpoint(lambda turn: read(whole, turn)), turns)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), out)

    out = per_device(loop, whole, jax.tree.map(cut, rows), spread)
    return jax.tree.map(lambda leaf: leaf.reshape(batch, group, count * size)[..., :length], out)


def completion_states(
    model: Janus,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    ids: SpecialTokenIds,
    *,
    modality: Modality,
    shared_prefix: bool,
    aligned: bool = True,
) -> Float[Array, "B G T D"]:
    """The state that predicts each token: the prompt's last for the first, then the completion's, shifted by one.

    Not ``aligned``, token ``t`` gets the state that has read tokens ``1 .. t`` already and so predicts token ``t + 1``,
    as ULM-R1's code scores pictures (decisions 1); the prompt's last state then scores nothing.
    """
    groups, samples, length = tokens.shape
    x = model.embed_prompt(prompts.tokens, prompts.images, ids.image)
    inputs = (tokens[..., :-1] if aligned else tokens).reshape(groups * samples, -1)
    written = model.embed_image_tokens(inputs) if modality == "image" else model.embed_text(inputs)
    prompt = x.shape[1]
    seen = jnp.repeat(prompts.mask, samples, 0)
    whole = jnp.concatenate([seen, jnp.ones_like(inputs, bool)], 1)
    positions, visible = prompt_positions(whole), prompt_mask(whole)
    if shared_prefix:
        asked = (x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))
        own = (written, positions[:, prompt:], visible[:, prompt:])
        states, after = model.language_model.with_shared_prefix(asked, own)
        states = (
            jnp.concatenate([jnp.repeat(states[:, -1:], samples, 0), after], 1)
            if aligned
            else after
        )
    else:
        x = jnp.concatenate([jnp.repeat(x, samples, 0), written], 1)
        states = model.language_model(x, positions, visible)[0][
            :, prompt - 1 if aligned else prompt :
        ]
    return states.reshape(groups, samples, length, -1)


def largest_difference(sampler: jax.Array, scorer: jax.Array, mask: jax.Array) -> jax.Array:
    """Largest absolute difference of two sets of log-probs where ``mask`` is true."""
    return jnp.max(jnp.where(mask, jnp.abs(sampler - scorer), 0))
