"""Prefill, then one token at a time over a cache that is carried in place.

In: a bound model, prompts, one key per sample, a ``SamplingParams``. Out: tokens and their log-probs ``[N, T]``.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.types import Prompts
from corl_jax.models.janus.model import Janus
from corl_jax.models.kv_cache import KVCache
from corl_jax.objectives.sampling_distribution import (
    SamplingParams,
    gumbel_noise,
    log_distribution,
    sample_tokens,
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

SEGMENT = 144
"""Image tokens for which a step reads the same part of the cache; at full length half of it would be unwritten. Every
segment is compiled, so there are few: four for the 576 tokens of Janus-Pro."""
NOISE = 2**26
"""Bytes of random numbers of a segment up to which they are made ahead, all at once, instead of step by step."""


def prefill(
    model: Janus, blocks: Any, prompts: Prompts, samples: int, image_id: int
) -> tuple[Float[Array, "N D"], KVCache, Bool[Array, "N P"], Int[Array, "N"]]:
    """Reads every prompt once for all of its samples.

    Args:
      blocks: from ``LanguageModel.separate_layers``.
      prompts: ``B`` of them.
      samples: ``G``; rows of one prompt lie side by side.

    Returns:
      last states ``[N, D]``, the cache, which prompt positions are real ``[N, P]``, and how many of them ``[N]``.
    """
    cache = model.language_model.empty_cache(*prompts.tokens.shape)
    x = model.embed_prompt(prompts.tokens, prompts.images, image_id)
    positions, mask = prompt_positions(prompts.mask), prompt_mask(prompts.mask)
    states, cache = model.language_model.cached(x, positions, mask, cache, 0, blocks)
    last, seen, real = (
        jnp.repeat(a, samples, 0) for a in (states[:, -1], prompts.mask, jnp.sum(prompts.mask, 1))
    )
    return last, cache.fork(samples) if samples > 1 else cache, seen, real


def reserve(cache: KVCache, prompt: int, length: int) -> KVCache:
    """The cache with room for ``length`` positions behind the prompt."""
    return cache.grow(length if cache.shared is not None else prompt + length)


def decode_step(
    model: Janus,
    blocks: Any,
    x_ND: Any,
    cache: KVCache,
    seen: Any,
    real: Any,
    step: Any,
    reads: int,
) -> tuple[Any, KVCache]:
    """Feeds the input of completion position ``step`` to every row; returns the state that predicts the next token.

    Args:
      reads: completion positions that are looked at, ``step < reads``.
    """
    written = jnp.arange(reads) <= step
    visible = jnp.concatenate([seen, jnp.broadcast_to(written, (len(seen), reads))], 1)
    index = step if cache.shared is not None else seen.shape[1] + step
    states, cache = model.language_model.cached(
        x_ND[:, None], (real + step)[:, None], visible[:, None], cache, index, blocks
    )
    return states[:, 0], cache


def decode_image(
    model: Janus,
    prompts: Prompts,
    keys: Any,
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    guided: bool,
    length: int | None = None,
) -> tuple[Int[Array, "N S"], Float[Array, "N S"]]:
    """Image tokens: scans of fixed length over conditional rows and, where ``guided``, unconditional ones among them.

    Args:
      keys: ``[B, G]``, one per sample.
      guided: whether the unconditional stream is run; without it guidance is 1.
      length: tokens to write; None for a whole picture.
    """
    groups, samples = keys.shape
    keys, rows, codes = keys.reshape(-1), groups * samples, model.cfg.image_tokenizer.codebook_size
    total = model.cfg.image_tokens if length is None else length
    if guided:
        prompts = with_unconditional_prompts(prompts, ids.pad)
    blocks = model.language_model.separate_layers()
    state, cache, seen, real = prefill(model, blocks, prompts, samples, ids.image)
    prompt = seen.shape[1]
    if not blocks:  # a stack is made once and read in part; layers of their own grow, since a CPU would copy the part
        cache = reserve(cache, prompt, total - 1)

    def noise_at(step):
        return gumbel_noise(step_keys(keys, step), codes)

    def pick(state_ND, noise_NI):
        logits = model.image_logits(state_ND)
        heard, silent = split_cfg(logits, groups) if guided else (logits, None)
        return sample_with_noise(noise_NI, log_distribution(heard, silent, sampling), sampling)

    def body(carry, at, reads):
        (state_ND, cache), (step, noise_NI) = carry, at
        written, log_probs = pick(state_ND, noise_at(step) if noise_NI is None else noise_NI)
        x = model.embed_image_tokens(repeat_for_cfg(written, groups) if guided else written)
        return decode_step(model, blocks, x, cache, seen, real, step, reads), (written, log_probs)

    out = []
    for start in range(0, total - 1, SEGMENT):
        steps = jnp.arange(start, min(start + SEGMENT, total - 1))
        noise = jax.vmap(noise_at)(steps) if len(steps) * rows * codes * 4 <= NOISE else None
        reads = start + len(steps)
        carry = (state, reserve(cache, prompt, reads) if blocks else cache)
        (state, cache), written = jax.lax.scan(
            functools.partial(body, reads=reads), carry, (steps, noise)
        )
        out.append(written)
    out.append(jax.tree.map(lambda leaf: leaf[None], pick(state, noise_at(total - 1))))
    tokens, log_probs = jax.tree.map(lambda *parts: jnp.concatenate(parts).T, *out)
    return tokens, log_probs


def step_keys(keys: Any, step: Any) -> Any:
    """The keys of one step, ``[N]``: what is drawn does not depend on the other rows."""
    return jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)


def decode_text(
    model: Janus,
    prompts: Prompts,
    keys: Any,
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    length: int,
) -> tuple[Int[Array, "N T"], Bool[Array, "N T"], Float[Array, "N T"]]:
    """Text: a while loop that stops when every row has ended or ``length`` tokens are written.

    Returns:
      tokens (padding after the end), mask up to and including the end token, log-probs.
    """
    groups, samples = keys.shape
    keys, rows, blocks = keys.reshape(-1), groups * samples, model.language_model.separate_layers()
    state, cache, seen, real = prefill(model, blocks, prompts, samples, ids.image)
    cache = reserve(cache, seen.shape[1], length)

    def running(carry):
        step, _, _, done, *_ = carry
        return (step < length) & ~jnp.all(done)

    def body(carry):
        step, state_ND, cache, done, tokens, log_probs = carry
        distribution = log_distribution(model.text_logits(state_ND), None, sampling)
        chosen, chosen_log_probs = sample_tokens(step_keys(keys, step), distribution, sampling)
        chosen = jnp.where(done, ids.pad, chosen)
        tokens = tokens.at[:, step].set(chosen)
        log_probs = log_probs.at[:, step].set(jnp.where(done, 0.0, chosen_log_probs))
        state_ND, cache = decode_step(
            model, blocks, model.embed_text(chosen), cache, seen, real, step, length
        )
        return step + 1, state_ND, cache, done | (chosen == ids.eos), tokens, log_probs

    empty = jnp.full((rows, length), ids.pad, jnp.int32)
    start = (
        jnp.int32(0),
        state,
        cache,
        jnp.zeros(rows, bool),
        empty,
        jnp.zeros((rows, length), jnp.float32),
    )
    steps, _, _, _, tokens, log_probs = jax.lax.while_loop(running, body, start)
    ended = jnp.cumsum(tokens == ids.eos, 1) - (tokens == ids.eos)
    return tokens, (ended == 0) & (jnp.arange(length) < steps), log_probs
