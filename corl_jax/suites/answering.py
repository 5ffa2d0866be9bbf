"""Answers to the questions of a benchmark, batch by batch, each kept on disk as soon as it is there.

Questions of like lengths share a batch, which a question never leaves: whoever starts again asks
only batches that are not on disk yet, with the same neighbours and so the same numbers. On several
processes all compute together, and the first one writes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import jax
from tqdm import tqdm

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import write_atomically
from corl_jax.core.processes.agreement import on_first_process, texts_of_processes
from corl_jax.data.image_files import ImageInput
from corl_jax.data.sources.pictures import StoredPicture
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.suites.calls import answer_batch, prompts_of_batches
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.questions.question import Question
from corl_jax.suites.requests import (
    Batch,
    Request,
    check_batch_size,
    check_lengths,
    make_request,
    plan_batches,
)

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


def make_requests(
    policy: Policy,
    questions: Sequence[Question],
    prompts: Sequence[SuitePrompt],
    options: AnswerOptions,
) -> list[Request]:
    """The requests of all questions; nothing is written or asked yet.

    Args:
      policy: what will answer.
      questions: of the benchmark.
      prompts: one per question.
      options: how they are asked.

    Raises:
      UserError: a batch size that the copies of the policy do not share evenly, or a prompt that is
        too long or that the tokenizer refuses; the error names the question.
    """
    check_batch_size(policy, options.batch_size, "--batch-size")
    requests = [
        make_request(
            policy,
            prompt,
            len(question.pictures),
            functools.partial(_read_pictures, question),
            question.location,
            options.plain_roles,
        )
        for question, prompt in zip(questions, prompts, strict=True)
    ]
    check_lengths(policy, requests, options.answer_tokens, "--completion-length")
    return requests


def _read_pictures(question: Question) -> list[ImageInput]:
    return [
        picture.fetch() if isinstance(picture, StoredPicture) else picture
        for picture in question.pictures
    ]


def answer_questions(
    policy: Policy,
    questions: Sequence[Question],
    requests: Sequence[Request],
    options: AnswerOptions,
    folder: pathlib.Path,
    label: str,
) -> list[Answer]:
    """Greedy answers to all questions.

    Args:
      policy: what answers; with ``data_parallel`` over all devices.
      questions: of the benchmark.
      requests: theirs, from ``make_requests``.
      options: how they are asked.
      folder: of the results; answers that it has are not asked for again.
      label: of the progress bar.

    Returns:
      one answer per question on the first process, none on the others.

    Raises:
      UserError: a picture that cannot be read, or answers on disk that are damaged. What was
        answered stays.
    """
    batches = plan_batches(requests, options.batch_size)

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
    sampling = policy.fns.sampling_params("text", temperature=0.0)
    begin = end = time.perf_counter()
    waited = 0.0
    with bar, policy.on_devices():
        for batch, rows in prompts_of_batches(policy, requests, waiting, options.batch_size):
            waited += time.perf_counter() - end
            texts = answer_batch(policy, rows, batch, sampling, options.answer_tokens)
            new = dict(zip(batch.rows, texts, strict=True))
            on_first_process(functools.partial(_write_batch, folder, batch, questions, new))
            answers |= new
            bar.update(len(new))
            end = time.perf_counter()

    if is_first and waiting:
        count, seconds = sum(len(batch.rows) for batch in waiting), end - begin
        print(
            f"{count} questions in {seconds:.1f} s, {count / seconds:.2f} questions/s; "
            f"{waited:.1f} s of them waiting for pictures",
            file=sys.stderr,
        )
    return [answers[row] for row in range(len(questions))] if is_first else []


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
