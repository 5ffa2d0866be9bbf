"""Decoding: read the prompts once, then write one token after another over a KV cache.

Prompts ``[B, P]`` and one key per sample ``[B, G]`` go in; tokens and their log-probs ``[N, T]``
come out, where ``N = B * G`` and the samples of a prompt are neighbours. The functions run inside
the compiled programs of ``generate.py``.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from corl_jax.core.types import Prompts
from corl_jax.models.interface import UnifiedModel
from corl_jax.models.kv_cache import KVCache
from corl_jax.objectives.sampling_distribution import (
    SamplingParams,
    gumbel_noise,
    log_distribution,
    sample_with_noise,
)
from corl_jax.sampling.prompt_layout import (
    SpecialTokenIds,
    prompt_mask,
    prompt_positions,
    repeat_for_cfg,
    split_cfg,
    with_unconditional_prompts,
)
from corl_jax.sampling.row_levels import SEGMENT

SHORT_SEGMENT = 48
"""Tokens of a segment of separate layers over a cache that is made once, the form on a GPU. The part
of its window that is not written yet is .07 of what 128 samples of Janus-Pro 1B read; shorter segments
read less in vain and compile longer (docs/planning.md)."""

NOISE_BYTES = 2**26
"""Random numbers of a segment are drawn ahead in one call if they fit in so many bytes."""


@dataclasses.dataclass(frozen=True)
class Prefill:
    """Prompts after the backbone has read them; what stays the same while their samples are decoded.

    Attributes:
      layers: the backbone's layers one by one, or () where it runs as a scan.
      prompt_mask: bool ``[N, P]``, which prompt positions are not padding.
      prompt_lengths: int ``[N]``, how many of them.
    """

    layers: tuple[Any, ...]
    prompt_mask: Bool[Array, "N P"]
    prompt_lengths: Int[Array, "N"]


def prefill(
    model: UnifiedModel, prompts: Prompts, samples: int, image_id: int
) -> tuple[Float[Array, "N D"], KVCache, Prefill]:
    """Reads every prompt once for all of its samples.

    Args:
      prompts: ``B`` of them.
      samples: ``G``, samples per prompt.
      image_id: placeholder of the tokens of an image to understand.

    Returns:
      the states that predict the first token ``[N, D]``, the cache, and what stays fixed.
    """
    layers = model.backbone.separate_layers()
    cache = model.backbone.empty_cache(*prompts.tokens.shape)
    x = model.embed_prompt(prompts.tokens, prompts.images, image_id)
    positions, mask = prompt_positions(prompts.mask), prompt_mask(prompts.mask)
    states, cache = model.backbone.cached(x, positions, mask, cache, 0, layers)

    # From here on a row is a sample. The cache keeps the prompts' part once per prompt.
    last_states = jnp.repeat(states[:, -1], samples, 0)
    token_mask = jnp.repeat(prompts.mask, samples, 0)
    lengths = jnp.repeat(jnp.sum(prompts.mask, 1), samples, 0)
    cache = cache.fork(samples) if samples > 1 else cache
    return last_states, cache, Prefill(layers, token_mask, lengths)


def reserve(cache: KVCache, prompt_length: int, completion_length: int) -> KVCache:
    """The cache with room for ``completion_length`` positions behind the prompt."""
    is_shared = cache.shared is not None
    return cache.grow(completion_length if is_shared else prompt_length + completion_length)


def decode_step(
    model: UnifiedModel,
    prefilled: Prefill,
    x_ND: Float[Array, "N D"],
    cache: KVCache,
    step: Int[Array, ""],
    window: int,
) -> tuple[Float[Array, "N D"], KVCache]:
    """Feeds the input of completion position ``step`` to every row.

    Args:
      x_ND: input embeddings of the tokens at that position.
      step: the position, counted from the end of the prompt.
      window: completion positions that attention reads, more than ``step``.

    Returns:
      the states that predict the next token, and the cache with this one.
    """
    rows, prompt_length = prefilled.prompt_mask.shape
    is_written = jnp.arange(window) <= step
    visible = jnp.concatenate(
        [prefilled.prompt_mask, jnp.broadcast_to(is_written, (rows, window))], 1
    )

    # A cache with a shared part counts positions from its own first one.
    index = step if cache.shared is not None else prompt_length + step
    positions = (prefilled.prompt_lengths + step)[:, None]
    states, cache = model.backbone.cached(
        x_ND[:, None], positions, visible[:, None], cache, index, prefilled.layers
    )
    return states[:, 0], cache


def decode_image(
    model: UnifiedModel,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    guided: bool,
    length: int | None = None,
) -> tuple[Int[Array, "N S"], Float[Array, "N S"]]:
    """Image tokens, sampled with classifier-free guidance where ``guided``.

    Args:
      keys: one per sample.
      guided: whether unconditional prompts run beside the conditional ones; without, guidance is 1.
      length: tokens to sample; None for a whole image.

    Returns:
      tokens and their log-probs.
    """
    groups, samples = keys.shape
    keys, rows = keys.reshape(-1), groups * samples
    vocab_size = model.cfg.image_vocab_size
    total = model.cfg.image_tokens if length is None else length
    if guided:
        prompts = with_unconditional_prompts(prompts, ids.pad)
    states, cache, prefilled = prefill(model, prompts, samples, ids.image)

    # A cache is made once and read in part, unless the platform would copy that part.
    prompt_length, grows = prefilled.prompt_mask.shape[1], model.backbone.grows_cache
    if not grows:
        cache = reserve(cache, prompt_length, total - 1)
    segment = SHORT_SEGMENT if prefilled.layers and not grows else SEGMENT

    def noise_at(step):
        return gumbel_noise(step_keys(keys, step), vocab_size)

    def sample(states_ND, noise_NI):
        logits = model.image_logits(states_ND)
        cond, uncond = split_cfg(logits, groups) if guided else (logits, None)
        return sample_with_noise(noise_NI, log_distribution(cond, uncond, sampling), sampling)

    def decode_one(carry, step_and_noise, window):
        (states_ND, cache), (step, noise_NI) = carry, step_and_noise
        tokens, log_probs = sample(states_ND, noise_at(step) if noise_NI is None else noise_NI)
        x = model.embed_image_tokens(repeat_for_cfg(tokens, groups) if guided else tokens)
        return decode_step(model, prefilled, x, cache, step, window), (tokens, log_probs)

    segments = []
    for start in range(0, total - 1, segment):
        steps = jnp.arange(start, min(start + segment, total - 1))
        window = start + len(steps)
        fits = len(steps) * rows * vocab_size * 4 <= NOISE_BYTES
        noise = jax.vmap(noise_at)(steps) if fits else None
        carry = (states, reserve(cache, prompt_length, window) if grows else cache)
        (states, cache), sampled = jax.lax.scan(
            functools.partial(decode_one, window=window), carry, (steps, noise)
        )
        segments.append(sampled)

    # The last token is sampled but not fed back.
    segments.append(jax.tree.map(lambda leaf: leaf[None], sample(states, noise_at(total - 1))))
    tokens, log_probs = jax.tree.map(lambda *parts: jnp.concatenate(parts).T, *segments)
    return tokens, log_probs


def step_keys(keys: Key[Array, "N"], step: Int[Array, ""]) -> Key[Array, "N"]:
    """The keys of one step: what a row samples does not depend on the other rows."""
    return jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
