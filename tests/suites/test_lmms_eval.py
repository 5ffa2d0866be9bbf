"""lmms-eval itself, in a process of its own, scores policies as they are scored here."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_benchmarks import png, write_parquet
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.answers.reading import extract_answer
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.records import image_of
from corl_jax.data.shapes import builder
from corl_jax.data.sources.pictures import StoredPicture
from corl_jax.evals.understanding import grade_answers
from corl_jax.sampling.policy import Policy
from corl_jax.suites.answering import AnswerOptions, answer_questions, make_requests
from corl_jax.suites.harness.continuations import continuation_ids, likelihoods
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.questions.question import Question
from corl_jax.suites.requests import make_request

HERE = pathlib.Path(__file__).resolve().parent
needs_lmms_eval = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"
)


def run_lmms_eval(folder, policy, tasks, questions, *flags):
    """Scores and answers of tasks, by task."""
    shutil.copytree(HERE / "lmms_task", folder / "task")
    data = write_parquet(folder / "questions.parquet", questions)
    for path in (folder / "task").glob("*.yaml"):
        path.write_text(path.read_text().replace("QUESTIONS", str(data)))

    env = os.environ | {
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "LMMS_EVAL_HOME": str(folder / "home"),
    }
    args = [
        "--model", "corl_jax", "--model_args", f"policy={policy},batch_size=4",
        "--tasks", ",".join(tasks), "--include_path", str(folder / "task"),
        "--log_samples", "--output_path", str(folder / "out"), *flags,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *args],
        env=env, text=True, capture_output=True, cwd=folder, timeout=600,
    )  # fmt: skip
    written = list((folder / "out").rglob("*_results.json"))
    assert len(written) == 1, done.stdout[-4000:] + done.stderr[-4000:]
    results = json.loads(written[0].read_text())["results"]
    samples = {}
    for task in tasks:
        (path,) = (folder / "out").rglob(f"*_samples_{task}.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        samples[task] = sorted(lines, key=lambda line: line["doc_id"])
    return results, samples


def world_questions(count):
    """Held-out questions of the embedded world, with pictures and options."""
    records = held_out_records(builder.source(split="test"), count, 0)
    rows = []
    for record in records:
        buffer = io.BytesIO()
        Image.fromarray(image_of(record)).save(buffer, "PNG")
        letters = [letter for letter, _ in zip("ABCD", record.choices, strict=False)]
        others = [word for word in ("yes", "no") if word != record.answer]
        rows.append(
            {
                "question": record.question,
                "answer": record.answer,
                "choices": json.dumps(letters or [*others, record.answer]),
                "pictures": [buffer.getvalue()],
            }
        )
    return records, rows


@needs_lmms_eval
def test_the_shipped_policy_has_the_score_that_it_has_here(tmp_path):
    records, rows = world_questions(24)
    tasks = ("corl_answers", "corl_choices")
    results, samples = run_lmms_eval(tmp_path, "tiny", tasks, rows)

    # Answers, as ``Policy`` itself writes them and as they are graded here.
    policy = Policy.load("tiny")
    answers = policy.answer(
        [image_of(r) for r in records], [r.question for r in records], max_tokens=24
    )
    completions = [Completion(r, text=text) for r, text in zip(records, answers, strict=True)]
    correct, _ = grade_answers(completions)
    found = [line["filtered_resps"] for line in samples["corl_answers"]]
    assert found == [extract_answer(answer) for answer in answers]
    assert [line["correct"] for line in samples["corl_answers"]] == correct.astype(float).tolist()
    assert results["corl_answers"]["correct,none"] == pytest.approx(correct.mean())
    assert 0 < correct.mean() < 1

    # Choices: the most likely one, by the mean log-prob of its tokens.
    right = []
    for row, request in zip(rows, our_requests(policy, rows), strict=True):
        choices = json.loads(row["choices"])
        ids = [continuation_ids(policy, f" {choice}", "here") for choice in choices]
        found = likelihoods(policy, [request] * len(ids), ids, len(ids), lambda done: None)
        means = [one.log_prob / one.tokens for one in found]
        right.append(choices[int(np.argmax(means))] == row["answer"])
    assert results["corl_choices"]["acc,none"] == pytest.approx(np.mean(right))
    assert 0 < np.mean(right) < 1


@needs_lmms_eval
def test_several_pictures_and_none_give_the_answers_of_our_suites(policy_folder, tmp_path):
    rows = [
        {
            "question": "What is it? " * (1 + number % 5),
            "answer": "a cup",
            "choices": "[]",
            "pictures": [png(10 * number + place) for place in range(number % 3)],
        }
        for number in range(13)
    ]
    flags = ("--gen_kwargs", "max_new_tokens=9")
    _, samples = run_lmms_eval(tmp_path, policy_folder, ("corl_answers",), rows, *flags)

    policy = Policy.load(policy_folder)
    questions = [
        Question(
            id=str(number), cluster="", text=row["question"], choices={}, hint="", answer="",
            category="", facts={}, location=f"row {number}",
            pictures=tuple(StoredPicture(lambda p=p: p, len(p)) for p in row["pictures"]),
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip
    prompts = [
        SuitePrompt(f"\n{q.text.strip()}" if q.pictures else q.text.strip()) for q in questions
    ]
    (tmp_path / "ours").mkdir()
    options = AnswerOptions(9, 4)
    requests = make_requests(policy, questions, prompts, options)
    answers = answer_questions(policy, questions, requests, options, tmp_path / "ours", "ours")
    found = [line["filtered_resps"] for line in samples["corl_answers"]]
    assert found == [extract_answer(answer.text) for answer in answers]
    assert len(set(found)) > 3


def our_requests(policy, questions):
    """The requests of ``lmms_task``'s questions, written down once more."""
    requests = []
    for number, row in enumerate(questions):
        pictures = [Image.open(io.BytesIO(picture)) for picture in row["pictures"]]
        prompt = SuitePrompt(f"\n{row['question']}")
        requests.append(
            make_request(policy, prompt, len(pictures), lambda p=pictures: p, f"{number}", False)
        )
    return requests


@needs_lmms_eval
def test_arguments_and_tasks_that_would_be_ignored_are_refused(policy_folder, monkeypatch):
    from lmms_eval.models import get_model

    model = get_model("corl_jax")
    # lmms-eval's own flag is 1 unless someone says otherwise; what is in --model_args counts.
    flags = {"batch_size": 1, "max_batch_size": None, "device": None}
    made = model.create_from_arg_string(f"policy={policy_folder},batch_size=8", flags)
    assert made._batch_size == 8 and made.is_simple
    with pytest.raises(UserError, match="tasks of one round"):
        made.generate_until_multi_round([])

    for args, words in {
        "device=cuda": "device='cuda'. JAX takes all devices",
        "colour=red": "must be of policy, batch_size, .*; got colour='red'",
        "batch_size=auto": "batch_size must be a number; got 'auto'",
        "batch_size=12": "must be a multiple of 8",
        "plain_roles=3": "plain_roles",
    }.items():
        with pytest.raises(UserError, match=words):
            model.create_from_arg_string(f"policy={policy_folder},{args}", {})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        model.create_from_arg_string(f"policy={policy_folder}", {})
