"""The door: a real run, a run that is stopped and taken up again, and bad input in one line with exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corl_jax.engine.checkpoint import latest_step
from corl_jax.main import main

ROOT = Path(__file__).parents[1]
STEPS = 300


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function from flags to a running ``python -m corl_jax.main`` on one device."""
    cache = tmp_path_factory.mktemp("cache")
    own = {
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "ignore",
    }

    def run(*line):
        command = [sys.executable, "-m", "corl_jax.main", *map(str, line)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | own, text=True, **pipes)

    return run


def finish(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows_so_far(folder):
    """Lines of a file that may be in the middle of being written."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_real_run_of_two_steps(start, tiny_policy_folder, tmp_path):
    """Evaluation before and after and the report included."""
    few = (
        "--config.rl.rollout.image_prompts=2",
        "--config.rl.rollout.text_prompts=2",
        "--config.rl.rollout.group_size=2",
        "--config.evals.num_records=2",
    )
    line = (
        "--config=configs/unified.py",
        f"--config.init_from={tiny_policy_folder}",
        "--config.steps=2",
        *few,
    )
    code, _, err = finish(start(*line, f"--workdir={tmp_path / 'run'}"))
    assert code == 0, err
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2] and latest_step(
        tmp_path / "run"
    ) == 2
    numbers = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert {"before", "after", "run"} <= set(numbers) and numbers["before"]["qa_greedy"]["n"] == 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


@pytest.fixture(scope="module")
def stopped(start, dot_policy_folder, tmp_path_factory):
    """A run that got SIGTERM and was started again: its folder, its flags, where it stopped, what both said."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    sizes = (
        f"--config.init_from={dot_policy_folder}",
        "--config.batch_size=4",
        f"--config.steps={STEPS}",
    )
    line = (
        "--config=configs/tokenizer.py",
        *sizes,
        "--config.hooks.save_every=0",
        f"--workdir={folder}",
    )
    process = start(*line)
    while len(rows_so_far(folder)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    first = finish(process)
    at = latest_step(folder)
    seen = rows(folder)
    return folder, line, at, seen, first, finish(start(*line))


def test_sigterm_saves_and_the_same_command_resumes(stopped):
    folder, _, at, seen, (code, _, said), (again, _, also_said) = stopped
    assert (
        code == 0 and "run the same command again to resume" in said and "Traceback" not in said
    ), said
    assert 3 <= at < STEPS and [row["step"] for row in seen] == list(range(1, at + 1))
    assert again == 0 and f"from step {at}" in also_said, also_said
    assert [row["step"] for row in rows(folder)] == list(range(1, STEPS + 1)) and rows(folder)[
        :at
    ] == seen
    assert latest_step(folder) == STEPS


def test_a_second_run_in_the_same_folder_is_refused(start, refused, dot_policy_folder, tmp_path):
    sizes = (
        f"--config.init_from={dot_policy_folder}",
        "--config.batch_size=4",
        f"--config.steps={STEPS}",
    )
    line = ("--config=configs/tokenizer.py", *sizes, f"--workdir={tmp_path / 'run'}")
    process = start(*line)
    while len(rows_so_far(tmp_path / "run")) < 3 and process.poll() is None:
        time.sleep(0.02)
    assert f"in use by another process of this host ({process.pid})" in refused(*line)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_bad_input_in_a_process_of_its_own(start, tmp_path):
    code, out, err = finish(
        start("--config=configs/unified.py", "--config.rl.gruop=4", f"--workdir={tmp_path / 'w'}")
    )
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "group" in err
    assert not (tmp_path / "w").exists()


@pytest.fixture
def refused(capsys, monkeypatch, small_world):
    """A function that calls the door in this process and expects one line and exit code 2; the line."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))

    def call(*line):
        capsys.readouterr()
        with small_world():
            assert main(["main", *map(str, line)]) == 2
        out, err = capsys.readouterr()
        said = [words for words in err.splitlines() if words.startswith("error: ")]
        assert out == "" and len(said) == 1 and "Traceback" not in err
        assert err.splitlines()[-1] == said[0]
        return said[0]

    return call


UNIFIED = "--config=configs/unified.py"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "--config is missing; expected for example --config=configs/unified.py"),
        ("--config", "config file '--workdir=.*cannot be read"),
        ("--config=configs/nowhere.py", "'configs/nowhere.py' cannot be read"),
        ("--config=README.md", "expected for example"),
        (f"{UNIFIED}:huge", "unknown model size 'huge'"),
        (f"{UNIFIED}:colour=red", "unknown config argument 'colour'"),
        (f"{UNIFIED} --colour=red", "Unknown command line flag 'colour'"),
        (f"{UNIFIED} red", "unexpected argument 'red'"),
        (f"{UNIFIED} --config.rl.gruop=4", 'no such key: .*"group"'),
        (f"{UNIFIED} --config.batch_size=4", "no such key"),
        (f"{UNIFIED} --config.rl.rollout.group_size=many", "many"),
        (f"{UNIFIED} --config.rl.rollout.group_size=1", "rl.rollout.group_size=1"),
        (f"{UNIFIED} --config.steps=0", "config.steps=0"),
        (f"{UNIFIED} --config.init_from=nowhere", "policy 'nowhere' is not a folder"),
        (
            f"{UNIFIED}:janus_pro_1b --config.init_from=tiny",
            "'janus_pro_1b' is not the size of the policy in init_from='tiny'",
        ),
        ("--config=configs/sft.py:tokenizer=nowhere", "policy 'nowhere' is not a folder"),
    ],
)
def test_bad_input(refused, tmp_path, line, says):
    assert re.search(says, refused(*line.split(), f"--workdir={tmp_path / 'new'}"))
    assert not list(tmp_path.iterdir())


def test_addresses_that_nobody_writes_to_or_reads(refused):
    assert "expected gs://BUCKET/FOLDER or a folder" in refused(
        UNIFIED, "--workdir=s3://bucket/run"
    )
    said = refused(UNIFIED, "--config.init_from=gs://bucket/run")
    assert "copy it first: gcloud storage cp --recursive gs://bucket/run ." in said


def test_work_directories_of_others(refused, stopped, dot_policy_folder, tmp_path):
    folder, line, *_ = stopped
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    before = contents(folder) | contents(tmp_path)
    assert "seed was 0 and is now 1" in refused(*line, "--config.seed=1")
    own = [flag for flag in line if not flag.startswith("--workdir")]
    assert "is not a run of corl_jax" in refused(*own, f"--workdir={tmp_path / 'thesis'}")
    assert "is a file" in refused(*own, f"--workdir={tmp_path / 'thesis' / 'chapter.tex'}")
    assert contents(folder) | contents(tmp_path) == before


def test_a_truncated_checkpoint(refused, stopped):
    """Of the folder only the config's number of steps, which may differ, is written anew."""
    folder, line, *_ = stopped
    saved = folder / "checkpoints" / str(STEPS)
    largest = max(
        (path for path in saved.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:-10])
    before = contents(folder)
    said = refused(*line, f"--config.steps={STEPS + 1}")
    assert f"checkpoints/{STEPS} is damaged" in said and "delete that folder" in said
    after = contents(folder)
    assert {path for path in before if before[path] != after[path]} <= {folder / "config.json"}
    assert before.keys() == after.keys()


def test_help(capsys):
    assert main(["main", "--help"]) == 0 and "--workdir" in capsys.readouterr().out
