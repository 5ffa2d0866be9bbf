"""Answers to the questions of a benchmark, batch by batch, each kept on disk as soon as it is there.

Questions of like lengths share a batch, which a question never leaves: whoever starts again asks
only batches that are not on disk yet, with the same neighbours and so the same numbers. On several
processes all compute together, and the first one writes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from tqdm import tqdm

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically
from corl_jax.core.processes.agreement import (
    on_all_processes,
    on_first_process,
    texts_of_processes,
)
from corl_jax.core.sharding import to_host
from corl_jax.core.types import Prompts
from corl_jax.data.image_files import load_image
from corl_jax.data.images import preprocess
from corl_jax.data.sources.pictures import StoredPicture
from corl_jax.data.text_tokenizer import left_pad, truncated_rows
from corl_jax.sampling.batching import batch_rows, prompt_keys
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.questions.question import Question

WIDTH_STEP = 64
"""Prompts are padded to multiples of so many tokens, so that few programs serve them all."""

PICTURE_WORKERS = 4
"""Threads that decode pictures while the devices compute."""

ANSWERS = "answers"
"""Folder with a file for every batch that has been answered."""


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How a benchmark is asked.

    Attributes:
      answer_tokens: longest answer.
      batch_size: most questions per call.
      plain_roles: writes the roles as words, as VLMEvalKit does for Janus.
    """

    answer_tokens: int
    batch_size: int = 64
    plain_roles: bool = False


@dataclasses.dataclass(frozen=True)
class Batch:
    """Questions of one call.

    Attributes:
      number: of the batch.
      rows: places of its questions in the benchmark.
      width: tokens of a prompt, padding included.
      pictures: of each question.
    """

    number: int
    rows: tuple[int, ...]
    width: int
    pictures: int


def tokenize(
    policy: Policy, questions: Sequence[Question], prompts: Sequence[SuitePrompt], plain_roles: bool
) -> list[list[int]]:
    """Token ids of the prompts.

    Raises:
      UserError: a text that the tokenizer refuses; the error names the question.
    """
    ids = []
    for question, prompt in zip(questions, prompts, strict=True):
        try:
            ids.append(
                policy.tokenizer.content_prompt(
                    prompt.content,
                    len(question.pictures),
                    policy.cfg.image_tokens,
                    system=prompt.system,
                    plain_roles=plain_roles,
                )
            )
        except UserError as error:
            raise UserError(f"{question.location}: {error}") from None
    return ids


def plan_batches(
    ids: Sequence[Sequence[int]], questions: Sequence[Question], batch_size: int
) -> list[Batch]:
    """Batches of questions with as many pictures and like lengths, in the order of the benchmark."""

    def shape(row: int) -> tuple[int, int]:
        return len(questions[row].pictures), -(-len(ids[row]) // WIDTH_STEP) * WIDTH_STEP

    batches: list[Batch] = []
    rows = sorted(range(len(ids)), key=lambda row: (shape(row), row))
    for (pictures, width), same_shape in itertools.groupby(rows, key=shape):
        group = tuple(same_shape)
        for start in range(0, len(group), batch_size):
            batches.append(Batch(len(batches), group[start : start + batch_size], width, pictures))
    return batches


def answer_questions(
    policy: Policy,
    questions: Sequence[Question],
    prompts: Sequence[SuitePrompt],
    options: AnswerOptions,
    folder: pathlib.Path,
    label: str,
) -> list[Answer]:
    """Greedy answers to all questions.

    Args:
      policy: what answers; with ``data_parallel`` over all devices.
      questions: of the benchmark.
      prompts: one per question.
      options: how they are asked.
      folder: of the results; answers that it has are not asked for again.
      label: of the progress bar.

    Returns:
      one answer per question on the first process, none on the others.

    Raises:
      UserError: a prompt or a picture that cannot be read, or answers on disk that are damaged.
        What was answered stays.
    """
    shards = 1 if policy.sharder is None else policy.sharder.batch_shards
    if options.batch_size % shards:
        raise UserError(
            f"--batch-size must be a multiple of {shards}, the copies of the policy; got "
            f"{options.batch_size}"
        )
    ids = tokenize(policy, questions, prompts, options.plain_roles)
    _check_lengths(policy, ids, questions, options.answer_tokens)
    batches = plan_batches(ids, questions, options.batch_size)

    # The first process knows what is on disk, and it alone has the answers in the end.
    is_first = jax.process_index() == 0
    answers = on_first_process(lambda: _read_batches(folder, batches, questions)) or {}
    done = texts_of_processes(
        " ".join(str(batch.number) for batch in batches if batch.rows[0] in answers)
    )[0]
    waiting = [batch for batch in batches if str(batch.number) not in done.split()]

    bar = tqdm(
        total=len(questions),
        initial=len(answers),
        desc=label,
        file=sys.stderr,
        ascii=True,
        unit="question",
        disable=not is_first,
    )
    with bar, policy.on_devices():
        for batch, pixels in _with_pixels(policy, questions, waiting, options.batch_size):
            texts = _answer_batch(policy, [ids[row] for row in batch.rows], pixels, batch, options)
            new = dict(zip(batch.rows, texts, strict=True))
            on_first_process(functools.partial(_write_batch, folder, batch, questions, new))
            answers |= new
            bar.update(len(new))
    return [answers[row] for row in range(len(questions))] if is_first else []


def _check_lengths(
    policy: Policy, ids: Sequence[Sequence[int]], questions: Sequence[Question], tokens: int
) -> None:
    """Refuses the first question whose prompt and answer exceed the policy's positions."""
    limit = policy.cfg.decoder.max_length - tokens
    for row, question in zip(ids, questions, strict=True):
        width = -(-len(row) // WIDTH_STEP) * WIDTH_STEP
        if width > limit:
            raise UserError(
                f"{question.location}: prompts must have at most {limit} tokens, the positions of "
                f"the policy without the {tokens} of an answer; got {width}. Lower "
                "--completion-length"
            )


def _with_pixels(
    policy: Policy, questions: Sequence[Question], batches: Sequence[Batch], batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches with this process's rows of their pictures ``[N, M, H, W, 3]``, read ahead."""

    def read(row: int) -> np.ndarray:
        question = questions[row]
        pictures = [
            load_image(
                picture.fetch() if isinstance(picture, StoredPicture) else picture,
                question.location,
            )
            for picture in question.pictures
        ]
        return np.stack([preprocess(picture, policy.cfg.image_size) for picture in pictures])

    def submit(batch: Batch) -> list[concurrent.futures.Future[np.ndarray]]:
        rows = [batch.rows[place] for place in _local_places(policy, batch, batch_size)]
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
            yield batch, on_all_processes(functools.partial(_stack, futures))


def _stack(futures: Sequence[concurrent.futures.Future[np.ndarray]]) -> np.ndarray:
    """The arrays of all futures; their first error is raised."""
    return np.stack([future.result() for future in futures])


def _local_places(policy: Policy, batch: Batch, batch_size: int) -> list[int]:
    """Places in a batch whose pictures this process reads; its last question fills up the call."""
    places, _ = next(batch_rows(len(batch.rows), batch_size))
    if policy.sharder is None:
        return places.tolist()
    return [int(places[row]) for row in policy.sharder.local_row_ids(batch_size)]


def _answer_batch(
    policy: Policy,
    ids: Sequence[Sequence[int]],
    pixels: np.ndarray,
    batch: Batch,
    options: AnswerOptions,
) -> list[Answer]:
    """Answers of one batch.

    Args:
      ids: of its prompts.
      pixels: of this process's rows.
    """
    places, count = next(batch_rows(len(ids), options.batch_size))
    tokens, mask = left_pad(ids, policy.tokenizer.pad_id, length=batch.width)
    prompts = Prompts(tokens[places], mask[places], pixels)
    if policy.sharder is not None:
        local = list(policy.sharder.local_row_ids(options.batch_size))
        prompts = policy.sharder.put_batch(
            Prompts(prompts.tokens[local], prompts.mask[local], pixels)
        )

    # Greedy answers need no keys; the program takes them.
    rollout = policy.fns.sample_text(
        policy.params,
        prompts,
        prompt_keys(0, "suites/answer", places, 1),
        policy.fns.sampling_params("text", temperature=0.0),
        options.answer_tokens,
    )
    answer_tokens = to_host(rollout.tokens)[:count, 0]
    truncated = truncated_rows(answer_tokens, policy.tokenizer.eos_id)
    return [
        Answer(policy.tokenizer.decode(row), bool(is_truncated))
        for row, is_truncated in zip(answer_tokens, truncated, strict=True)
    ]


def _path(folder: pathlib.Path, batch: Batch) -> pathlib.Path:
    return folder / ANSWERS / f"{batch.number:05d}.json"


def _write_batch(
    folder: pathlib.Path,
    batch: Batch,
    questions: Sequence[Question],
    answers: Mapping[int, Answer],
) -> None:
    entries = {
        questions[row].id: {"text": answer.text, "is_truncated": answer.is_truncated}
        for row, answer in answers.items()
    }
    write_atomically(_path(folder, batch), json.dumps(entries, ensure_ascii=False, indent=1))


def _read_batches(
    folder: pathlib.Path, batches: Sequence[Batch], questions: Sequence[Question]
) -> dict[int, Answer]:
    """The answers on disk, by the place of their questions."""
    (folder / ANSWERS).mkdir(exist_ok=True)
    answers = {}
    for batch in batches:
        path = _path(folder, batch)
        if not path.exists():
            continue
        advice = "remove the file, and its questions are asked again"
        content = JsonObject.read(path, advice=advice)
        for row in batch.rows:
            entry = content.block(questions[row].id)
            answers[row] = Answer(entry.text("text"), entry.boolean("is_truncated"))
    return answers
