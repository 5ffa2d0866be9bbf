"""``python -m corl_jax.main``: a real run, a run that is stopped and resumed, and bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from corl_jax.engine.checkpoints.step_folders import latest_step
from corl_jax.engine.run_history import read_history
from corl_jax.main import main, parse_command_line

ROOT = Path(__file__).parents[1]
STEPS = 300
UNIFIED = "--config=configs/unified.py"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function from flags to a running ``python -m corl_jax.main`` on one device."""
    variables = {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "ignore",
    }

    def start_process(*flags):
        return subprocess.Popen(
            [sys.executable, "-m", "corl_jax.main", *map(str, flags)],
            cwd=ROOT,
            env=os.environ | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start_process


def finish(process):
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def read_metrics(folder):
    """The rows of ``metrics.jsonl``, one per step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_for_steps(process, folder, steps):
    """Waits until a run has written metrics of some steps, or has ended."""
    path = folder / "metrics.jsonl"
    # The last line may be in the middle of being written.
    while process.poll() is None:
        if path.exists() and len(path.read_bytes().splitlines()) >= steps:
            break
        time.sleep(0.02)


def contents(folder):
    """Path to bytes of every file."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_real_run_of_two_steps(start, tiny_policy_folder, tmp_path):
    """With evaluation before and after, and the report."""
    small = (
        "--config.rl.rollout.image_prompts=2",
        "--config.rl.rollout.text_prompts=2",
        "--config.rl.rollout.group_size=2",
        "--config.evals.num_records=2",
    )
    line = (
        "--config=configs/unified.py",
        f"--config.init_from={tiny_policy_folder}",
        "--config.steps=2",
        *small,
    )
    code, _, err = finish(start(*line, f"--workdir={tmp_path / 'run'}"))
    assert code == 0, err

    folder = tmp_path / "run"
    assert [row["step"] for row in read_metrics(folder)] == [1, 2] and latest_step(folder) == 2
    evals = json.loads((folder / "eval.json").read_text())
    assert {"before", "after"} <= set(evals) and evals["before"]["qa_greedy"]["n"] == 2
    assert [start.last_step for start in read_history(folder)] == [2]
    assert err.splitlines()[-1].endswith(f"report: {folder}/report.html")
    assert (folder / "report.html").stat().st_size > 1000


@dataclasses.dataclass(frozen=True)
class StoppedRun:
    """A run that got SIGTERM and was started again with the same flags.

    Attributes:
      folder: its work directory.
      flags: its command line.
      step: the one that it stopped at.
      metrics: its rows of metrics when it stopped.
      first, second: exit code, stdout and stderr of both processes.
    """

    folder: Path
    flags: tuple[str, ...]
    step: int
    metrics: list
    first: tuple
    second: tuple


@pytest.fixture(scope="module")
def stopped_run(start, dot_policy_folder, tmp_path_factory):
    """A ``StoppedRun`` of the image tokenizer."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    flags = (
        "--config=configs/tokenizer.py",
        f"--config.init_from={dot_policy_folder}",
        "--config.batch_size=4",
        f"--config.steps={STEPS}",
        "--config.hooks.save_every=0",
        f"--workdir={folder}",
    )
    process = start(*flags)
    wait_for_steps(process, folder, 3)
    process.send_signal(signal.SIGTERM)
    first = finish(process)
    step, metrics = latest_step(folder), read_metrics(folder)
    second = finish(start(*flags))
    return StoppedRun(folder, flags, step, metrics, first, second)


def test_sigterm_saves_and_the_same_command_resumes(stopped_run):
    code, _, err = stopped_run.first
    assert code == 0 and "run the same command again to resume" in err, err
    assert "Traceback" not in err, err
    step = stopped_run.step
    assert 3 <= step < STEPS
    assert [row["step"] for row in stopped_run.metrics] == list(range(1, step + 1))

    code, _, err = stopped_run.second
    assert code == 0 and f"from step {step}" in err, err
    metrics = read_metrics(stopped_run.folder)
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    assert metrics[:step] == stopped_run.metrics
    assert latest_step(stopped_run.folder) == STEPS


def test_a_second_run_in_the_same_folder_is_refused(
    start, refused, dot_policy_folder, tmp_path, monkeypatch
):
    """Also where it has another folder for temporary files."""
    folder = tmp_path / "run"
    flags = (
        "--config=configs/tokenizer.py",
        f"--config.init_from={dot_policy_folder}",
        "--config.batch_size=4",
        f"--config.steps={STEPS}",
        f"--workdir={folder}",
    )
    process = start(*flags)
    wait_for_steps(process, folder, 3)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert f"in use by another process of this host ({process.pid})" in refused(*flags)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_bad_input_in_a_process_of_its_own(start, tmp_path):
    folder = tmp_path / "run"
    process = start(UNIFIED, "--config.rl.rollout.gruop_size=4", f"--workdir={folder}")
    code, out, err = finish(process)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "group_size" in err
    assert not folder.exists()


@pytest.fixture
def refused(capsys, monkeypatch, small_world):
    """A function that runs ``main`` in this process, expects exit code 2 and one error line.

    It returns that line.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))

    def run_main(*flags):
        capsys.readouterr()
        with small_world():
            assert main(["main", *map(str, flags)]) == 2
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert out == "" and len(errors) == 1 and "Traceback" not in err
        assert err.splitlines()[-1] == errors[0]
        return errors[0]

    return run_main


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--config is missing; expected for example --config=configs/unified.py"),
        ("--config", "--config must be a file; got '--workdir=.*Write for example --config=confi"),
        (
            "--config=configs/nowhere.py",
            "must be a file that exists, or one of the package, configs/cold_sft.py, .*; got "
            "'configs/nowhere.py'",
        ),
        ("--config=README.md", "README.md' fails: SyntaxError"),
        (f"{UNIFIED} --config.rewards.image.beauty=1", "unknown reward 'beauty'; expected one of"),
        (f"{UNIFIED} --config.rewards.image.cycle=much", "could not convert string to float"),
        ("--config=configs/tokenizer.py --config.rewards.text.numeric=1", "no such key: 'rewards'"),
        (f"{UNIFIED}:huge", "model size must be one of tiny, .*; got 'huge'"),
        (f"{UNIFIED}:colour=red", "config argument must be one of .*; got 'colour'"),
        (f"{UNIFIED} --colour=red", "Unknown command line flag 'colour'"),
        (f"{UNIFIED} red", "unexpected argument 'red'"),
        (f"{UNIFIED} --config.rl.rollout.gruop_size=4", 'no such key: .*"group_size"'),
        (f"{UNIFIED} --config.batch_size=4", "no such key"),
        (f"{UNIFIED} --config.rl.rollout.group_size=many", "many"),
        (
            f"{UNIFIED} --config.rl.rollout.group_size=1",
            "config.rl.rollout.group_size must be a whole number of at least 2; got 1",
        ),
        (f"{UNIFIED} --config.steps=0", "config.steps must be .* at least 1; got 0"),
        (f"{UNIFIED} --config.init_from=nowhere", "policy 'nowhere' is not a folder"),
        (
            f"{UNIFIED}:janus_pro_1b --config.init_from=tiny",
            "config.model.size='janus_pro_1b' must be the size of the policy in init_from='tiny'",
        ),
        ("--config=configs/sft.py:tokenizer=nowhere", "policy 'nowhere' is not a folder"),
    ],
)
def test_bad_input(refused, tmp_path, line, message):
    assert re.search(message, refused(*line.split(), f"--workdir={tmp_path / 'new'}"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ("--config.rl.group=4", "config.rl.group is called config.rl.rollout.group_size today"),
        ("--config.rl.group 4", "config.rl.group is called config.rl.rollout.group_size today"),
        (
            "--config.seed=1 --config.evals.n=4",
            "config.evals.n is called config.evals.num_records today",
        ),
        (
            "--config.reward.own=mine:brightness",
            "config.reward.own is called config.rewards.options.custom today",
        ),
    ],
)
def test_a_renamed_key_is_called_by_todays_name(refused, tmp_path, flags, hint):
    error = refused(UNIFIED, *flags.split(), f"--workdir={tmp_path / 'new'}")
    assert "the config has no such key: " in error and error.endswith(hint)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_has_no_hint_about_other_names(refused, tmp_path):
    error = refused(UNIFIED, "--config.rl.color=4", f"--workdir={tmp_path / 'new'}")
    assert "the config has no such key: 'color'" in error and "today" not in error


def test_addresses_that_cannot_be_written_or_read(refused):
    error = refused(UNIFIED, "--workdir=s3://bucket/run")
    assert "workdir must be gs://BUCKET/FOLDER or a local folder; got s3://bucket/run" in error
    error = refused(UNIFIED, "--config.init_from=gs://bucket/run")
    assert "copy it first: gcloud storage cp --recursive gs://bucket/run ." in error


def test_a_folder_that_is_not_of_this_run_is_left_as_it_is(refused, stopped_run, tmp_path):
    folder, flags = stopped_run.folder, stopped_run.flags
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("x")
    before = contents(folder) | contents(tmp_path)
    assert "seed was 0 and is now 1" in refused(*flags, "--config.seed=1")

    other_flags = [flag for flag in flags if not flag.startswith("--workdir")]
    assert "is not a run of corl_jax" in refused(*other_flags, f"--workdir={thesis}")
    assert "is a file" in refused(*other_flags, f"--workdir={thesis / 'chapter.tex'}")
    assert contents(folder) | contents(tmp_path) == before


def test_a_run_cannot_get_shorter_than_it_is_or_change_its_stage(refused, stopped_run):
    folder, flags = stopped_run.folder, stopped_run.flags
    before = contents(folder)
    message = f"is already at step {STEPS}; got config.steps=2. Raise config.steps to train on"
    assert message in refused(*flags, "--config.steps=2")
    for stage in ("sft", "pipeline"):
        error = refused(*flags, f"--config.stage={stage}")
        assert "config.stage must be the stage that the config file is for" in error
    assert contents(folder) == before


def test_a_complete_run_is_left_as_it_is(stopped_run, small_world, capsys, monkeypatch):
    """Started again it says so on one line, and touches no file."""
    monkeypatch.chdir(ROOT)
    folder = stopped_run.folder
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    assert main(["main", *stopped_run.flags]) == 0
    out = capsys.readouterr().out
    assert f"is already at step {STEPS} of {STEPS}" in out and out.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))} == before


def test_a_truncated_checkpoint(refused, stopped_run):
    """Only the config is written again: its number of steps may differ."""
    folder = stopped_run.folder
    checkpoint = folder / "checkpoints" / str(STEPS)
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])

    before = contents(folder)
    # The run had more records than the small world of this process.
    more = (*stopped_run.flags, f"--config.steps={STEPS + 1}")
    message = "training records of config.data had count 16384, digest corl_shapes 1.0.0 when"
    assert message in refused(*more)
    error = refused(*more, "--config.data.changed=accept")
    assert f"checkpoints/{STEPS} is damaged" in error and "delete that folder" in error
    after = contents(folder)
    assert {path for path in before if before[path] != after[path]} <= {folder / "config.json"}
    assert before.keys() == after.keys()


def test_both_forms_of_the_flag_from_any_directory(tmp_path, monkeypatch):
    """And changes may come before the config that they change; of two configs the last one counts."""
    monkeypatch.chdir(tmp_path)
    command = ["main", "--config.seed=3", "--config=configs/sft.py"]
    for flags in (["--config=configs/unified.py:mesh=cpu"], ["--config", "unified.py:mesh=cpu"]):
        config, workdir, _ = parse_command_line([*command, *flags])
        assert (config["stage"], config["seed"], config["mesh"]["data"]) == ("rl", 3, 1)
        assert workdir == "runs/unified"


def test_a_weight_of_a_reward_that_the_config_does_not_have():
    flags = ["--config.rewards.text.numeric", "2", "--config.rewards.image.clip=0.5"]
    config, _, _ = parse_command_line(["main", UNIFIED, *flags])
    assert config["rewards"]["text"] == {"accuracy": 1.0, "format": 1.0, "numeric": 2.0}
    assert config["rewards"]["image"] == {"shapes_strict": 0.5, "shapes_soft": 0.5, "clip": 0.5}

    # Of a pipeline, in the stage that is named.
    flags = ["--config=configs/corl.py", "--config.train.refined_mc.rewards.text.numeric=1"]
    stages = parse_command_line(["main", *flags])[0]["train"]
    assert stages["refined_mc"]["rewards"]["text"]["numeric"] == 1.0
    assert "numeric" not in stages["unified"]["rewards"]["text"]
