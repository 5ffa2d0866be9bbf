"""Prefill, then one token at a time over a cache that is carried in place.

In: a bound model, prompts, one key per sample, a ``Sampling``. Out: tokens and their log-probs ``[N, T]``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.types import Prompts
from corl_jax.models.attention import Cache
from corl_jax.models.unified import Janus
from corl_jax.objectives.distribution import Sampling, draw, log_distribution
from corl_jax.sampling.layout import SpecialIds, prompt_mask, prompt_positions, unconditional_tokens


def prefill(
    model: Janus, prompts: Prompts, samples: int, length: int, image_id: int
) -> tuple[Float[Array, "N D"], Cache, Bool[Array, "N L"], Int[Array, "N"]]:
    """Reads every prompt once and tiles what was read to its samples.

    Args:
      prompts: ``B`` of them.
      samples: ``G``; rows of one prompt lie side by side.
      length: ``T``, completion positions to leave room for.

    Returns:
      last states ``[N, D]``, the cache, which of its positions may be seen ``[N, P + T]``, real prompt lengths ``[N]``.
    """
    rows, width = prompts.tokens.shape
    cache = model.language_model.empty_cache(rows, width + length)
    mask = jnp.pad(prompt_mask(prompts.mask), ((0, 0), (0, 0), (0, length)))
    x = model.embed_prompt(prompts.tokens, prompts.images, image_id)
    states, cache = model.language_model.cached(x, prompt_positions(prompts.mask), mask, cache, 0)
    seen = jnp.pad(prompts.mask, ((0, 0), (0, length)))
    last, seen, real = (jnp.repeat(a, samples, 0) for a in (states[:, -1], seen, jnp.sum(prompts.mask, 1)))
    return last, cache.tile(samples), seen, real


def advance(model: Janus, x_ND: Any, cache: Cache, seen: Any, real: Any, prompt: int, step: Any) -> tuple[Any, Cache]:
    """Feeds the input of completion position ``step`` to every row; returns the state that predicts the next token."""
    visible = seen | ((jnp.arange(seen.shape[1]) >= prompt) & (jnp.arange(seen.shape[1]) <= prompt + step))[None]
    states, cache = model.language_model.cached(
        x_ND[:, None], (real + step)[:, None], visible[:, None], cache, prompt + step
    )
    return states[:, 0], cache


def decode_image(
    model: Janus, prompts: Prompts, keys: Any, sampling: Sampling, ids: SpecialIds, guided: bool
) -> tuple[Int[Array, "N S"], Float[Array, "N S"]]:
    """Image tokens: a scan of fixed length over conditional and, where ``guided``, unconditional rows, stacked.

    Args:
      keys: ``[B, G]``, one per sample.
      guided: whether the unconditional stream is run; without it guidance is 1.
    """
    groups, samples = keys.shape
    keys, rows, total = keys.reshape(-1), groups * samples, model.cfg.image_tokens
    if guided:
        silent = unconditional_tokens(prompts.tokens, prompts.mask, ids.pad)
        prompts = Prompts(jnp.concatenate([prompts.tokens, silent]), jnp.concatenate([prompts.mask, prompts.mask]))
    width = prompts.tokens.shape[1]
    state, cache, seen, real = prefill(model, prompts, samples, total, ids.image)

    def choose(state_ND, step):
        logits = model.image_logits(state_ND)
        log_probs = log_distribution(logits[:rows], logits[rows:] if guided else None, sampling)
        return draw(jax.vmap(lambda key: jax.random.fold_in(key, step))(keys), log_probs, sampling)

    def body(carry, step):
        state_ND, cache = carry
        codes, log_probs = choose(state_ND, step)
        x = model.embed_codes(jnp.concatenate([codes, codes]) if guided else codes)
        return advance(model, x, cache, seen, real, width, step), (codes, log_probs)

    (state, _), (codes, log_probs) = jax.lax.scan(body, (state, cache), jnp.arange(total - 1))
    last, last_log_probs = choose(state, jnp.int32(total - 1))
    return jnp.vstack([codes, last]).T, jnp.vstack([log_probs, last_log_probs]).T


def decode_text(
    model: Janus, prompts: Prompts, keys: Any, sampling: Sampling, ids: SpecialIds, length: int
) -> tuple[Int[Array, "N T"], Bool[Array, "N T"], Float[Array, "N T"]]:
    """Text: a while loop that stops when every row has ended or ``length`` tokens are written.

    Returns:
      tokens (padding after the end), mask up to and including the end token, log-probs.
    """
    groups, samples = keys.shape
    keys, rows, width = keys.reshape(-1), groups * samples, prompts.tokens.shape[1]
    state, cache, seen, real = prefill(model, prompts, samples, length, ids.image)

    def running(carry):
        step, _, _, done, *_ = carry
        return (step < length) & ~jnp.all(done)

    def body(carry):
        step, state_ND, cache, done, tokens, log_probs = carry
        distribution = log_distribution(model.text_logits(state_ND), None, sampling)
        chosen, chosen_log_probs = draw(
            jax.vmap(lambda key: jax.random.fold_in(key, step))(keys), distribution, sampling
        )
        chosen = jnp.where(done, ids.pad, chosen)
        tokens = tokens.at[:, step].set(chosen)
        log_probs = log_probs.at[:, step].set(jnp.where(done, 0.0, chosen_log_probs))
        state_ND, cache = advance(model, model.embed_text(chosen), cache, seen, real, width, step)
        return step + 1, state_ND, cache, done | (chosen == ids.eos), tokens, log_probs

    empty = jnp.full((rows, length), ids.pad, jnp.int32)
    start = (jnp.int32(0), state, cache, jnp.zeros(rows, bool), empty, jnp.zeros((rows, length), jnp.float32))
    steps, _, _, _, tokens, log_probs = jax.lax.while_loop(running, body, start)
    ended = jnp.cumsum(tokens == ids.eos, 1) - (tokens == ids.eos)
    return tokens, (ended == 0) & (jnp.arange(length) < steps), log_probs
