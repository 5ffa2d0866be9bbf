"""How likely given continuations of prompts are: one teacher-forced pass, and one greedy answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import to_host
from corl_jax.core.types import Prompts, Rollout
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.sampling.policy import Policy
from corl_jax.suites.calls import local_places, prompts_of_batches, request_keys
from corl_jax.suites.requests import Batch, Request, check_lengths, plan_batches

LENGTH_STEP = 8
"""Continuations are padded to multiples of so many tokens."""


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Of one continuation.

    Attributes:
      log_prob: of all its tokens.
      tokens: how many it has.
      is_greedy: whether the greedy answer begins with it.
    """

    log_prob: float
    tokens: int
    is_greedy: bool


def continuation_ids(policy: Policy, text: str, location: str) -> list[int]:
    """Tokens of a continuation, with the space in front that it may have.

    Raises:
      UserError: it has none, or special tokens, which are never sampled.
    """
    ids = policy.tokenizer.encode(text)
    banned = policy.tokenizer.banned_text_ids(policy.cfg.text_vocab_size)
    if not ids or banned[ids].any():
        raise UserError(
            f"{location}: a continuation must be a text of at least one token, without special "
            f"tokens; got {text!r}. Correct the task"
        )
    return ids


def likelihoods(
    policy: Policy,
    requests: Sequence[Request],
    continuations: Sequence[Sequence[int]],
    batch_size: int,
    on_batch: Callable[[int], object],
) -> list[Likelihood]:
    """Likelihoods of continuations under the distribution that answers are sampled from.

    Args:
      requests: the prompts.
      continuations: ``continuation_ids``, one list per request.
      batch_size: rows of a call.
      on_batch: told how many requests are done.

    Raises:
      UserError: a prompt that is too long, or a picture that cannot be read.
    """
    places: dict[int, list[int]] = {}
    for place, ids in enumerate(continuations):
        length = -(-len(ids) // LENGTH_STEP) * LENGTH_STEP
        places.setdefault(length, []).append(place)
    for length, rows in places.items():
        chosen = [requests[row] for row in rows]
        check_lengths(policy, chosen, length, "the number of tokens of the continuation")

    results: dict[int, Likelihood] = {}
    with policy.on_devices():
        for length, rows in places.items():
            batches = plan_batches(requests, batch_size, rows)
            for batch, prompts in prompts_of_batches(policy, requests, batches, batch_size):
                chosen_ids = [continuations[row] for row in batch.rows]
                new = _batch_likelihoods(policy, prompts, batch, chosen_ids, length, batch_size)
                results.update(zip(batch.rows, new, strict=True))
                on_batch(len(batch.rows))
    return [results[place] for place in range(len(requests))]


def _batch_likelihoods(
    policy: Policy,
    prompts: Prompts,
    batch: Batch,
    continuations: Sequence[Sequence[int]],
    length: int,
    batch_size: int,
) -> list[Likelihood]:
    """Likelihoods of one batch, whose continuations have at most ``length`` tokens."""
    # Padding on the right changes nothing: tokens read only what is before them.
    tokens = np.full((len(continuations), 1, length), policy.tokenizer.pad_id, np.int32)
    for row, ids in enumerate(continuations):
        tokens[row, 0, : len(ids)] = ids
    rows = tokens[local_places(policy, batch, batch_size)]
    placed = rows if policy.sharder is None else policy.sharder.put_batch(rows)

    fns, keys = policy.fns, request_keys(0, batch, batch_size)
    sampling = fns.sampling_params("text", temperature=0.0)
    rollout = Rollout(placed, None, None, None, "text")
    log_probs = to_host(fns.log_probs(policy.params, prompts, rollout, sampling, LogProbOptions()))
    greedy = to_host(fns.sample_text(policy.params, prompts, keys, sampling, length).tokens)
    return [
        Likelihood(
            log_prob=float(np.sum(log_probs[row, 0, : len(ids)], dtype=np.float64)),
            tokens=len(ids),
            is_greedy=bool(np.array_equal(greedy[row, 0, : len(ids)], ids)),
        )
        for row, ids in enumerate(continuations)
    ]
