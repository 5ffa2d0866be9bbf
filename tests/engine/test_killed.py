"""A run in its own process that is killed or gets a signal to stop, and is then resumed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import metric_rows

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.checkpoints.step_folders import latest_step

STEPS = 24


def start(path, pause):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    program = str(Path(__file__).with_name("toy_stage.py"))
    command = [sys.executable, program, str(path), str(STEPS), str(pause)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_row(process, path, step):
    """Returns once the row of ``step`` is written."""
    metrics = path / "metrics.jsonl"
    for _ in range(12000):
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("no such row")


def digest(path):
    return read_manifest(path / "checkpoints" / str(STEPS)).params_digest


def test_killed_stopped_and_resumed_equals_uninterrupted(tmp_path):
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    reference = start(uninterrupted, 0)

    killed = start(interrupted, 0.03)
    step = random.randint(1, 10)
    wait_for_row(killed, interrupted, step)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    stopped = start(interrupted, 0.03)
    wait_for_row(stopped, interrupted, 13)
    stopped.terminate()
    stderr = stopped.communicate(timeout=240)[1]
    assert stopped.returncode == 0 and "run the same command again to resume" in stderr, stderr
    saved = latest_step(interrupted)
    assert 13 <= saved < STEPS and len(metric_rows(interrupted)) == saved

    last = start(interrupted, 0)
    assert last.wait(240) == 0, last.communicate()[1]
    assert reference.wait(240) == 0, reference.communicate()[1]
    assert metric_rows(interrupted) == metric_rows(uninterrupted), f"killed after row {step}"
    assert digest(interrupted) == digest(uninterrupted)


def damage_newest(path, part):
    """Cuts a file of the newest step short; returns the folder of that step."""
    folder = path / "checkpoints" / "8"
    target = {
        "manifest": folder / "manifest" / "manifest.json",
        "state": folder / "state" / "manifest.ocdbt",
    }[part]
    target.write_bytes(target.read_bytes()[:20])
    return folder


@pytest.mark.parametrize("part", ["manifest", "state"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_overwritten(tmp_path, part):
    import toy_stage

    toy_stage.run(tmp_path / "w", 8)
    folder = damage_newest(tmp_path / "w", part)
    before = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    with pytest.raises(
        UserError,
        match=r"checkpoints/8 is damaged.*fallback=True or delete that folder to resume from step 4",
    ) as error:
        toy_stage.run(tmp_path / "w", 9)
    assert "\n" not in str(error.value)

    # The number of steps may differ, so config.json alone is new.
    config = tmp_path / "w" / "config.json"
    after = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {config}

    # Without the inventory the damage is found when the state is read.
    (folder / "files.json").unlink()
    with pytest.raises(UserError, match="checkpoints/8 is damaged"):
        toy_stage.run(tmp_path / "w", 9)
    import shutil

    shutil.rmtree(folder)
    assert [result.step for result in toy_stage.run(tmp_path / "w", 9)] == [5, 6, 7, 8, 9]


def test_half_written_steps_do_not_count(tmp_path):
    import toy_stage

    toy_stage.run(tmp_path / "w", 4)
    unfinished = tmp_path / "w" / "checkpoints" / "6.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    assert latest_step(tmp_path / "w") == 4
    assert [result.step for result in toy_stage.run(tmp_path / "w", 6)] == [5, 6]
    assert not unfinished.exists()


def test_checkpoints_of_another_stage_or_model_are_refused(tmp_path):
    import toy_stage

    toy_stage.run(tmp_path / "w", 4)
    with pytest.raises(UserError, match="written by stage 'toy', not 'sft'"):
        toy_stage.run(tmp_path / "w", 5, toy_stage.ToyStage(name="sft"))
    with pytest.raises(UserError, match=r"head/kernel is float32\[6,1\].*float32\[7,1\]"):
        toy_stage.run(tmp_path / "w", 5, toy_stage.ToyStage(width=7))
