"""Decoding of text: until every row has ended, with ever fewer rows and a growing window of the cache.

Prompts and keys go in, tokens and log-probs come out, as in ``decode.py``. Where most rows have
ended, the others go on by themselves (``row_levels.py``), all within one program.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from corl_jax.core.per_device import batch_shards_of
from corl_jax.core.types import Prompts, pytree
from corl_jax.models.interface import UnifiedModel
from corl_jax.models.kv_cache import KVCache
from corl_jax.objectives.sampling_distribution import (
    SamplingParams,
    log_distribution,
    sample_tokens,
)
from corl_jax.sampling.decode import Prefill, decode_step, prefill, reserve, step_keys
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.sampling.row_levels import Level, RowChoice, most_running, plan_levels

COMPACTED = "fewer_rows"
"""Scope of the part of the program that goes on with fewer rows. At worst it never runs: rows that
all have the full length stay together."""


@pytree()
class DecodeState:
    """What changes from token to token.

    Attributes:
      step: completion position that is fed next.
      fed: ``[N]``, the tokens there.
      cache: keys and values of the prompts and of the completions so far.
      done: bool ``[N]``, whether the end token has been sampled.
      tokens, log_probs: ``[N, T]``, the completions so far.
    """

    step: Int[Array, ""]
    fed: Int[Array, "N"]
    cache: KVCache
    done: Bool[Array, "N"]
    tokens: Int[Array, "N T"]
    log_probs: Float[Array, "N T"]


@dataclasses.dataclass(frozen=True)
class TextRows:
    """What stays the same for the rows of a level.

    Attributes:
      prefilled: their prompts.
      keys: ``[N]``.
      samples: int ``[D, N / D]``, which of the shard's samples they are.
    """

    prefilled: Prefill
    keys: Key[Array, "N"]
    samples: Int[Array, "D M"]

    def take(self, choice: RowChoice) -> TextRows:
        """The chosen rows."""
        prefilled = Prefill(
            self.prefilled.layers,
            choice.take(self.prefilled.prompt_mask),
            choice.take(self.prefilled.prompt_lengths),
        )
        samples = jnp.take_along_axis(self.samples, choice.rows, 1)
        return TextRows(prefilled, choice.take(self.keys), samples)


@dataclasses.dataclass(frozen=True)
class TextDecoder:
    """What is the same for all rows.

    Attributes:
      model: with its parameters.
      sampling: the distribution of tokens.
      ids: special token ids.
      group_size: ``G``, samples per prompt.
      shards: of the rows.
    """

    model: UnifiedModel
    sampling: SamplingParams
    ids: SpecialTokenIds
    group_size: int
    shards: int


def decode_text(
    model: UnifiedModel,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: SamplingParams,
    ids: SpecialTokenIds,
    length: int,
    levels: tuple[Level, ...] | None = None,
) -> tuple[Int[Array, "N T"], Bool[Array, "N T"], Float[Array, "N T"]]:
    """Text, until every row has sampled the end token or has ``length`` tokens.

    A row's tokens do not depend on which rows go on beside it; its log-probs do in their last bits,
    as they do with the number of rows of a batch.

    Args:
      keys: one per sample.
      length: most tokens of a row.
      levels: rows and windows of the loops; None for those of ``plan_levels``.

    Returns:
      tokens (padding after the end token), a mask that is true up to and including the end token,
      and log-probs.
    """
    groups, group_size = keys.shape
    rows, shards = groups * group_size, batch_shards_of(groups)
    decoder = TextDecoder(model, sampling, ids, group_size, shards)

    states, cache, prefilled = prefill(model, prompts, group_size, ids.image)
    samples = jnp.broadcast_to(jnp.arange(rows // shards), (shards, rows // shards))
    text_rows = TextRows(prefilled, keys.reshape(-1), samples)

    # The last token is sampled but not fed back.
    prompt_length = prefilled.prompt_mask.shape[1]
    cache = reserve(cache, prompt_length, length - 1)
    levels = levels or plan_levels(
        rows // shards,
        length - 1,
        stacked=not prefilled.layers,
        compiles_layers=bool(prefilled.layers) and not model.backbone.grows_cache,
    )

    empty = DecodeState(
        step=jnp.int32(-1),
        fed=jnp.zeros(rows, jnp.int32),
        cache=cache,
        done=jnp.zeros(rows, bool),
        tokens=jnp.full((rows, length), ids.pad, jnp.int32),
        log_probs=jnp.zeros((rows, length), jnp.float32),
    )
    first = _sample(decoder, text_rows, empty, states)
    tokens, log_probs = _run_levels(decoder, levels, text_rows, first, length - 1)

    # Tokens count up to the first end token.
    is_eos = tokens == ids.eos
    return tokens, jnp.cumsum(is_eos, 1) - is_eos == 0, log_probs


def _sample(
    decoder: TextDecoder, rows: TextRows, state: DecodeState, states: Float[Array, "N D"]
) -> DecodeState:
    """The state with the token of the next position, which ``states`` predict."""
    step, sampling = state.step + 1, decoder.sampling
    distribution = log_distribution(decoder.model.text_logits(states), None, sampling)
    sampled, log_probs = sample_tokens(step_keys(rows.keys, step), distribution, sampling)
    sampled = jnp.where(state.done, decoder.ids.pad, sampled)
    log_probs = jnp.where(state.done, 0.0, log_probs)
    return DecodeState(
        step=step,
        fed=sampled,
        cache=state.cache,
        done=state.done | (sampled == decoder.ids.eos),
        tokens=state.tokens.at[:, step].set(sampled),
        log_probs=state.log_probs.at[:, step].set(log_probs),
    )


def _run_levels(
    decoder: TextDecoder,
    levels: tuple[Level, ...],
    rows: TextRows,
    state: DecodeState,
    positions: int,
) -> tuple[Int[Array, "N T"], Float[Array, "N T"]]:
    """Tokens and log-probs when all rows have ended or all ``positions`` have been fed."""
    level, fewer = levels[0], levels[1:]
    most_left = fewer[0].rows if fewer else 0

    # One loop for each window; those that begin after the last token do nothing.
    start = 0
    for window in level.windows:
        state = _run_loop(decoder, rows, state, (start, window), most_left)
        start = window
    outputs = state.tokens, state.log_probs
    if not fewer:
        return outputs

    def go_on() -> tuple[jax.Array, jax.Array]:
        """The same with the rows that still sample."""
        choice = RowChoice.of_running(state.done, decoder.shards, most_left)
        chosen = rows.take(choice)
        cache = state.cache.take_rows(choice.rows, chosen.samples, decoder.group_size)
        smaller = DecodeState(
            step=state.step,
            fed=choice.take(state.fed),
            cache=cache,
            done=choice.take(state.done),
            tokens=choice.take(state.tokens),
            log_probs=choice.take(state.log_probs),
        )
        results = _run_levels(decoder, fewer, chosen, smaller, positions)
        return choice.put_back(outputs[0], results[0]), choice.put_back(outputs[1], results[1])

    is_running = (state.step < positions) & ~jnp.all(state.done)
    with jax.named_scope(COMPACTED):
        return jax.lax.cond(is_running, go_on, lambda: outputs)


def _run_loop(
    decoder: TextDecoder,
    rows: TextRows,
    state: DecodeState,
    span: tuple[int, int],
    most_left: int,
) -> DecodeState:
    """Feeds and samples from position to position of ``span``, until few rows are left.

    Args:
      span: first position and the end, which is also the window of the cache that is read.
      most_left: rows of a shard with which the loop ends.
    """
    start, window = span
    # A cache no longer than the window where the platform would copy that part of it at every token.
    cache = state.cache
    prompt_length = 0 if cache.shared is not None else rows.prefilled.prompt_mask.shape[1]
    has_copy = decoder.model.backbone.grows_cache and prompt_length + window < cache.length
    if has_copy:
        state = dataclasses.replace(state, cache=cache.first(prompt_length + window))

    # The loop counts from 0, so that its condition says how often it runs at most. Whether too few
    # rows are left is known when they have sampled.
    def is_running(carry: tuple[Any, ...]) -> jax.Array:
        turn, has_many, _ = carry
        return (turn < window - start) & has_many

    def feed(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        turn, _, state = carry
        x = decoder.model.embed_text(state.fed)
        states, cache = decode_step(
            decoder.model, rows.prefilled, x, state.cache, start + turn, window
        )
        advanced = dataclasses.replace(state, step=start + turn, cache=cache)
        state = _sample(decoder, rows, advanced, states)
        return turn + 1, has_many(state), state

    def has_many(state: DecodeState) -> jax.Array:
        return most_running(state.done, decoder.shards) > most_left

    carry = state.step - start, has_many(state), state
    state = jax.lax.while_loop(is_running, feed, carry)[2]
    return dataclasses.replace(state, cache=cache.with_first(state.cache)) if has_copy else state
