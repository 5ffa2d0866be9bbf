"""lmms-eval itself, in a process of its own, scores policies as they are scored here."""

from __future__ import annotations

import dataclasses
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
from helpers import dot_config, write_byte_tokenizer, write_untrained_policy
from made_benchmarks import png, write_parquet
from PIL import Image

from corl_jax.core.types import Completion
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.records import image_of
from corl_jax.data.shapes import builder
from corl_jax.evals.understanding import grade_answers
from corl_jax.sampling.policy import Policy
from corl_jax.suites.harness.continuations import continuation_ids, likelihoods
from corl_jax.suites.prompts import SuitePrompt
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


def our_requests(policy, questions):
    """The requests of ``lmms_task``'s questions, written down once more."""
    requests = []
    for number, row in enumerate(questions):
        pictures = [Image.open(io.BytesIO(picture)) for picture in row["pictures"]]
        content = f"\n{row['question']}" if pictures else row["question"]
        requests.append(
            make_request(
                policy, SuitePrompt(content), len(pictures), lambda p=pictures: p, f"{number}", False
            )
        )
    return requests
