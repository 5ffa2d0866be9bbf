"""A benchmark from its file to a folder of results: asked, scored, and written for judges."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import on_first_process
from corl_jax.evals.statistics import Estimate, Estimates
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.suites.answering import AnswerOptions, answer_questions, make_requests
from corl_jax.suites.benchmarks import Benchmark, benchmarks
from corl_jax.suites.dumps import write_dumps
from corl_jax.suites.questions.fields import picture_name
from corl_jax.suites.questions.question import Question
from corl_jax.suites.results import PICTURES, SuiteRecord, write_results
from corl_jax.suites.scoring.aggregates import (
    CORRECT,
    Aggregate,
    cluster_estimates,
    mean_estimate,
)
from corl_jax.suites.scoring.rules import no_scores
from corl_jax.suites.settings import claim_folder, questions_digest
from corl_jax.suites.thumbnails import write_thumbnails

TRUNCATED = "truncated"
"""Score of an answer that was cut at the limit of its length."""


def run_question_suite(
    name: str,
    questions: Sequence[Question],
    policy: Policy,
    options: AnswerOptions,
    folder: pathlib.Path,
    about: Mapping[str, Any],
) -> Estimates:
    """Asks all questions, scores the answers and writes the folder of results.

    Args:
      name: of the benchmark.
      questions: from ``benchmarks.read_questions``.
      policy: what answers.
      options: how it is asked.
      folder: of the results; an earlier start of the same command goes on in it.
      about: policy and versions, for ``results.json``; its ``policy`` and ``identity`` must be
        those of the earlier start.

    Returns:
      the metrics, on the first process.

    Raises:
      UserError: as ``make_requests``, ``claim_folder`` and ``answer_questions``, or a question
        without an answer.
    """
    benchmark = benchmarks[name]
    check_references(benchmark, questions)
    settings = {
        "suite": name,
        "policy": about["policy"],
        "identity": about["identity"],
        "dtype": about["dtype"],
        "questions": len(questions),
        "questions_digest": questions_digest(questions),
        **dataclasses.asdict(options),
    }
    # What cannot be asked is an error before anything is written.
    prompts = [benchmark.prompt(question) for question in questions]
    requests = make_requests(policy, questions, prompts, options)
    claim_folder(folder, settings)
    answers = answer_questions(policy, questions, requests, options, folder, name)

    # Scores, and the files that judges read, are made by the first process alone.
    def write() -> Estimates:
        thumbnails = {picture_file(question): question.pictures[0] for question in questions}
        write_thumbnails(folder, thumbnails)
        write_dumps(folder, name, questions, answers)

        records = [
            make_record(benchmark, question, answer)
            for question, answer in zip(questions, answers, strict=True)
        ]
        metrics = suite_metrics(records, benchmark.aggregates)
        data = {"data": settings["questions_digest"]}
        details = {**about, **settings, **data, "judge": benchmark.judge}
        write_results(folder, details, metrics, records)
        return metrics

    return on_first_process(write) or {}


def check_references(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    """Refuses a question that the rules cannot score, since its file has no answer.

    Raises:
      UserError: there is one.
    """
    # A judge has answers of its own.
    if benchmark.scores is no_scores:
        return
    for question in questions:
        if not question.answer:
            raise UserError(
                f"{question.location}: answer must be a text; got nothing. Use the part of the "
                "benchmark whose answers are published"
            )


def make_record(benchmark: Benchmark, question: Question, answer: Answer) -> SuiteRecord:
    """A scored record of one answer."""
    options = "".join(f"\n{letter}. {text}" for letter, text in question.choices.items())
    scores = dict(benchmark.scores(question, answer.text))
    return SuiteRecord(
        id=question.id,
        cluster=question.cluster,
        category=question.category,
        prompt=question.text + options,
        reference=question.answer,
        output=answer.text,
        picture=f"{PICTURES}/{picture_file(question)}",
        scores=scores | {TRUNCATED: float(answer.is_truncated)},
    )


def picture_file(question: Question) -> str:
    """Name of the small picture of a question."""
    return f"{picture_name(question.pictures[0])}.jpg"


def suite_metrics(records: Sequence[SuiteRecord], aggregates: Mapping[str, Aggregate]) -> Estimates:
    """Means of all scores, over all records and by category, and the aggregates.

    Standard errors count records of a cluster as dependent. A category with commas counts for each
    of its parts.
    """
    metrics: Estimates = {}
    for score in records[0].scores:
        metrics[score] = _mean(records, score)
    for name, (value, stderr) in cluster_estimates(records, aggregates).items():
        metrics[name] = Estimate(value=value, stderr=stderr, n=len(records))

    by_category: dict[str, list[SuiteRecord]] = {}
    for record in records:
        for part in filter(None, (part.strip() for part in record.category.split(","))):
            by_category.setdefault(part, []).append(record)
    if CORRECT in records[0].scores and len(by_category) > 1:
        for category in sorted(by_category):
            metrics[f"{CORRECT}/{category}"] = _mean(by_category[category], CORRECT)
    return metrics


def _mean(records: Sequence[SuiteRecord], score: str) -> Estimate:
    value, stderr = mean_estimate(records, score)
    return Estimate(value=value, stderr=stderr, n=len(records))
