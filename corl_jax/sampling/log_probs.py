"""Log-probs of completions in one teacher-forced pass, under the distribution that sampled them.

A bound model, prompts and completions go in; log-probs and entropies ``[B, G, T]`` come out. Logits
become the distribution in ``objectives.sampling_distribution.log_distribution``, the function that
the sampler calls too, so that both agree token by token (``corl doctor`` measures it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.per_device import batch_axes_spec, per_device
from corl_jax.core.types import Modality, Prompts
from corl_jax.models.interface import UnifiedModel
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


@dataclasses.dataclass(frozen=True)
class LogProbOptions:
    """How log-probs are computed; static, so each choice is a program of its own.

    Attributes:
      guided: takes image tokens under the guided distribution, which runs unconditional prompts too.
      aligned: reads a token's log-prob off the state that predicts it, see ``completion_states``.
      shared_prefix: reads each prompt once for all its completions, otherwise once per completion;
        the same numbers up to rounding.
      chunk_length: completion tokens that have logits at a time, see ``map_in_chunks``; 0 is all.
      microbatches: parts of the rows, one after another, in ``PolicyFns.log_probs``. Products of the
        same shapes as in the update add up in the same order, so that in bfloat16, too, an update
        that changes nothing has the ratio 1.
    """

    guided: bool = False
    aligned: bool = True
    shared_prefix: bool = False
    chunk_length: int = 0
    microbatches: int = 1


def log_probs_and_entropy(
    model: UnifiedModel,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    modality: Modality,
    options: LogProbOptions,
    unguided: Bool[Array, "B G"] | None = None,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Log-probs of ``G`` completions of each of ``B`` prompts.

    Args:
      tokens: the completions.
      sampling: what the sampler used.
      modality: which head predicts the tokens, and how they are embedded.
      unguided: completions that were not sampled with guidance, where others were; None for none.

    Returns:
      the log-prob of every token, and the entropy of the distribution it was sampled from.
    """
    # Conditional and unconditional prompts go through the backbone in one pass.
    all_prompts, all_tokens = prompts, tokens
    if options.guided:
        all_prompts = with_unconditional_prompts(prompts, ids.pad)
        all_tokens = jnp.repeat(tokens, 2, 0)
    states = completion_states(model, all_prompts, all_tokens, ids, modality, options)
    cond, uncond = split_cfg(states, len(tokens)) if options.guided else (states, None)

    if unguided is not None:
        unguided = jnp.broadcast_to(unguided[..., None], tokens.shape)

    # The head is split off the model, so that its gradient adds up over chunks by itself.
    head_def, head = nnx.split(model.image_head if modality == "image" else model.text_head)

    def read_tokens(head_and_sampling: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        (head, sampling), (cond, uncond, tokens, unguided) = head_and_sampling, rows
        to_logits = nnx.merge(head_def, head)
        uncond_logits = None if uncond is None else to_logits(uncond)
        cond_logits = to_logits(cond)
        if uncond_logits is not None and unguided is not None:
            # Guidance away from the conditional logits themselves changes nothing.
            uncond_logits = jnp.where(unguided[..., None], cond_logits, uncond_logits)
        log_probs = log_distribution(cond_logits, uncond_logits, sampling)
        return token_log_probs(log_probs, tokens), entropy(log_probs)

    head_specs = jax.tree.map(
        _parameter_spec, head, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return map_in_chunks(
        read_tokens,
        (head, sampling),
        (cond, uncond, tokens, unguided),
        options.chunk_length,
        (head_specs, batch_axes_spec(())),
    )


def _parameter_spec(parameter: nnx.Variable) -> PartitionSpec:
    """How a parameter is spread over the batch axes of the mesh."""
    return batch_axes_spec(parameter.get_metadata()["logical"])


def map_in_chunks(
    function: Callable[[Any, Any], Any], shared: Any, rows: Any, chunk_length: int, specs: Any
) -> Any:
    """``function(shared, rows)`` over chunks of positions, so that its results never exist for all.

    Each chunk is recomputed in the backward pass, and the gradient of ``shared`` adds up over the
    chunks in its own dtype, float32 for parameters. The batch is not cut, so rows stay on their
    devices, which see one all-gather of ``shared`` and one sum of its gradient instead of one per
    chunk.

    Args:
      function: works position by position and returns arrays ``[..., T]``.
      shared: parameters and settings that all chunks read.
      rows: pytree of ``[B, G, T, ...]``.
      chunk_length: most positions at a time; 0, or at least ``T``, takes all at once.
      specs: how ``shared`` is spread over the batch axes, see ``core.per_device``.
    """
    batch, group, length = jax.tree.leaves(rows)[0].shape[:3]
    if not 0 < chunk_length < length:
        return function(shared, rows)

    # Nearly even chunks, so that little is computed in vain.
    chunks = -(-length // chunk_length)
    size = -(-length // chunks)

    def cut(leaf: jax.Array) -> jax.Array:
        # The padded positions of the last chunk are dropped from the results again.
        flat = leaf.reshape(batch * group, length, *leaf.shape[3:])
        padding = [(0, 0), (0, chunks * size - length), *[(0, 0)] * (flat.ndim - 2)]
        return jnp.pad(flat, padding).reshape(batch * group, chunks, size, *flat.shape[2:])

    def loop(shared: Any, rows: Any) -> Any:
        by_chunk = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), rows)
        results = jax.lax.map(jax.checkpoint(lambda chunk: function(shared, chunk)), by_chunk)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), results)

    results = per_device(loop, shared, jax.tree.map(cut, rows), specs)
    return jax.tree.map(
        lambda leaf: leaf.reshape(batch, group, chunks * size)[..., :length], results
    )


def completion_states(
    model: UnifiedModel,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    ids: SpecialTokenIds,
    modality: Modality,
    options: LogProbOptions,
) -> Float[Array, "B G T D"]:
    """The state that predicts each token: the prompt's last one, then the completion's but its last.

    Without ``options.aligned``, token ``t`` gets the state that has read tokens ``1 .. t`` and so
    predicts token ``t + 1``, as ULM-R1's code has it for images; see
    docs/decisions.md#image-log-probs.
    """
    # Prompts are embedded once each, whether or not their samples share them below.
    groups, samples, length = tokens.shape
    prompt_x = model.embed_prompt(prompts.tokens, prompts.images, ids.image)
    prompt_length = prompt_x.shape[1]

    # Teacher forcing: the inputs are the completion's own tokens.
    inputs = (tokens[..., :-1] if options.aligned else tokens).reshape(groups * samples, -1)
    embed = model.embed_image_tokens if modality == "image" else model.embed_text
    completion_x = embed(inputs)

    # Positions count real tokens, so that padding on the left changes nothing.
    token_mask = jnp.repeat(prompts.mask, samples, 0)
    token_mask = jnp.concatenate([token_mask, jnp.ones_like(inputs, bool)], 1)
    positions, mask = prompt_positions(token_mask), prompt_mask(token_mask)
    if options.shared_prefix:
        prompt_rows = (prompt_x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))
        completion_rows = (completion_x, positions[:, prompt_length:], mask[:, prompt_length:])
        prompt_states, states = model.backbone.with_shared_prefix(prompt_rows, completion_rows)
        if options.aligned:
            last_states = jnp.repeat(prompt_states[:, -1:], samples, 0)
            states = jnp.concatenate([last_states, states], 1)
    else:
        x = jnp.concatenate([jnp.repeat(prompt_x, samples, 0), completion_x], 1)
        first = prompt_length - 1 if options.aligned else prompt_length
        states = model.backbone(x, positions, mask)[0][:, first:]
    return states.reshape(groups, samples, length, -1)


def largest_difference(
    sampler_log_probs: Float[Array, "..."],
    log_probs: Float[Array, "..."],
    mask: Bool[Array, "..."],
) -> Float[Array, ""]:
    """Largest absolute difference of two sets of log-probs where ``mask`` is true."""
    return jnp.max(jnp.where(mask, jnp.abs(sampler_log_probs - log_probs), 0))
