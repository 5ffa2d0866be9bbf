"""Calls of a policy with batches of requests: prompts on the devices, answers, log-probs.

Pictures are read ahead in threads. On several processes all make the same calls, each with its own
rows, and all get all results.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from corl_jax.core.processes.agreement import on_all_processes
from corl_jax.core.sharding import to_host
from corl_jax.core.types import Prompts
from corl_jax.data.image_files import load_image
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import left_pad, truncated_rows
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.batching import batch_rows, prompt_keys
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.suites.requests import Batch, Request

PICTURE_WORKERS = 4
"""Threads that read pictures while the devices compute."""


def prompts_of_batches(
    policy: Policy, requests: Sequence[Request], batches: Sequence[Batch], batch_size: int
) -> Iterator[tuple[Batch, Prompts]]:
    """Batches with their prompts, ``batch_size`` rows each, on the devices.

    Raises:
      UserError: a picture that cannot be read, on all processes.
    """

    def read(row: int) -> np.ndarray:
        request = requests[row]
        size = policy.cfg.image_size
        pictures = [load_image(picture, request.location) for picture in request.read()]
        return np.stack([preprocess(picture, size) for picture in pictures])

    def submit(batch: Batch) -> list[concurrent.futures.Future[np.ndarray]]:
        if not batch.pictures:
            return []
        rows = [batch.rows[place] for place in local_places(policy, batch, batch_size)]
        reading = {row: pool.submit(read, row) for row in dict.fromkeys(rows)}
        return [reading[row] for row in rows]

    with concurrent.futures.ThreadPoolExecutor(PICTURE_WORKERS) as pool:
        # Two batches are in memory beside the one that is computed.
        ahead = [submit(batch) for batch in batches[:2]]
        for number, batch in enumerate(batches):
            if number + 2 < len(batches):
                ahead.append(submit(batches[number + 2]))
            futures = ahead.pop(0)
            # A picture that cannot be read on one process ends all of them.
            pixels = on_all_processes(functools.partial(_stack, futures))
            yield batch, _prompts(policy, requests, batch, pixels, batch_size)


def answer_batch(
    policy: Policy,
    prompts: Prompts,
    batch: Batch,
    sampling: SamplingParams,
    length: int,
    seed: int = 0,
) -> list[Answer]:
    """Answers to the requests of one batch.

    Args:
      prompts: from ``prompts_of_batches``.
      sampling: of text; greedy answers do not depend on the seed.
      length: of the longest answer, in tokens.
      seed: with a request's place among all it gives the key of its answer.
    """
    keys = request_keys(seed, batch, len(prompts.tokens))
    rollout = policy.fns.sample_text(policy.params, prompts, keys, sampling, length)
    tokens = to_host(rollout.tokens)[: len(batch.rows), 0]
    truncated = truncated_rows(tokens, policy.tokenizer.eos_id)
    return [
        Answer(policy.tokenizer.decode(row), bool(is_truncated))
        for row, is_truncated in zip(tokens, truncated, strict=True)
    ]


def request_keys(seed: int, batch: Batch, batch_size: int) -> jax.Array:
    """A key per row of a call, of the request in that row."""
    places, _ = next(batch_rows(len(batch.rows), batch_size))
    return prompt_keys(seed, "suites/answer", np.asarray(batch.rows)[places], 1)


def _stack(futures: Sequence[concurrent.futures.Future[np.ndarray]]) -> np.ndarray | None:
    """The arrays of all futures, None of none; their first error is raised."""
    return np.stack([future.result() for future in futures]) if futures else None


def local_places(policy: Policy, batch: Batch, batch_size: int) -> list[int]:
    """Places in a batch whose rows this process has; its last request fills up the call."""
    places, _ = next(batch_rows(len(batch.rows), batch_size))
    if policy.sharder is None:
        return places.tolist()
    return [int(places[row]) for row in policy.sharder.local_row_ids(batch_size)]


def _prompts(
    policy: Policy,
    requests: Sequence[Request],
    batch: Batch,
    pixels: np.ndarray | None,
    batch_size: int,
) -> Prompts:
    """Prompts of a batch.

    Args:
      pixels: ``[N, M, H, W, 3]`` of this process's rows; None for requests without pictures.
    """
    ids = [requests[row].ids for row in batch.rows]
    tokens, mask = left_pad(ids, policy.tokenizer.pad_id, length=batch.width)
    places = local_places(policy, batch, batch_size)
    prompts = Prompts(tokens[places], mask[places], pixels)
    return prompts if policy.sharder is None else policy.sharder.put_batch(prompts)
