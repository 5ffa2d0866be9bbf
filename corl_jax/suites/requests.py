"""What a policy is asked, whoever asks, in calls of few shapes: requests, and their batches.

Benchmarks here (``suites.answering``) and the harnesses of others (``suites.harness``) make the same
requests, so that they get the same answers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import ImageInput
from corl_jax.sampling.policy import Policy
from corl_jax.suites.prompts import SuitePrompt

WIDTH_STEP = 64
"""Prompts are padded to multiples of so many tokens, so that few programs serve them all."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
      ids: its tokens, with the placeholders of its pictures.
      pictures: how many there are.
      read: gives them, in a thread that reads ahead.
      location: of the question, for errors.
    """

    ids: Sequence[int]
    pictures: int
    read: Callable[[], Sequence[ImageInput]]
    location: str

    @property
    def width(self) -> int:
        """Tokens of the prompt with its padding."""
        return -(-len(self.ids) // WIDTH_STEP) * WIDTH_STEP


@dataclasses.dataclass(frozen=True)
class Batch:
    """Requests of one call.

    Attributes:
      number: of the batch.
      rows: places of its requests among all, which also give the keys of their answers.
      width: tokens of a prompt, padding included.
      pictures: of each request.
    """

    number: int
    rows: tuple[int, ...]
    width: int
    pictures: int


def make_request(
    policy: Policy,
    prompt: SuitePrompt,
    pictures: int,
    read: Callable[[], Sequence[ImageInput]],
    location: str,
    plain_roles: bool,
) -> Request:
    """The request of a question; see ``Request``.

    Args:
      prompt: what stands behind the pictures.
      plain_roles: writes the roles as words.

    Raises:
      UserError: a text that the tokenizer refuses; the error names the question.
    """
    try:
        ids = policy.tokenizer.content_prompt(
            prompt.content,
            pictures,
            policy.cfg.image_tokens,
            system=prompt.system,
            plain_roles=plain_roles,
        )
    except UserError as error:
        raise UserError(f"{location}: {error}") from None
    return Request(ids, pictures, read, location)


def plan_batches(
    requests: Sequence[Request], batch_size: int, places: Sequence[int] | None = None
) -> list[Batch]:
    """Batches of requests with as many pictures and like lengths, in the order of the requests.

    Args:
      places: of those that are planned; all by default.
    """

    def shape(row: int) -> tuple[int, int]:
        return requests[row].pictures, requests[row].width

    batches: list[Batch] = []
    chosen = range(len(requests)) if places is None else places
    rows = sorted(chosen, key=lambda row: (shape(row), row))
    for (pictures, width), same_shape in itertools.groupby(rows, key=shape):
        group = tuple(same_shape)
        for start in range(0, len(group), batch_size):
            batches.append(Batch(len(batches), group[start : start + batch_size], width, pictures))
    return batches


def check_lengths(policy: Policy, requests: Sequence[Request], tokens: int, setting: str) -> None:
    """Refuses the first request whose prompt and completion exceed the policy's positions.

    Args:
      tokens: longest completion.
      setting: how it is lowered.

    Raises:
      UserError: there is one; the error names its question.
    """
    limit = policy.cfg.decoder.max_length - tokens
    for request in requests:
        if request.width > limit:
            raise UserError(
                f"{request.location}: prompts must have at most {limit} tokens, the positions of "
                f"the policy without the {tokens} of an answer; got {request.width}. Lower "
                f"{setting}"
            )


def check_batch_size(policy: Policy, batch_size: int, setting: str) -> None:
    """Refuses a batch size that the copies of the policy do not share evenly.

    Raises:
      UserError: it is none of their multiples; the error calls it ``setting``.
    """
    shards = 1 if policy.sharder is None else policy.sharder.batch_shards
    if batch_size % shards:
        raise UserError(
            f"{setting} must be a multiple of {shards}, the copies of the policy; got {batch_size}"
        )
