"""A run in its own process, killed or asked to stop, and taken up again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_loop import rows

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoint import latest_step
from corl_jax.engine.manifest import read_manifest

STEPS = 24


def start(path, pause):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [
        sys.executable,
        str(Path(__file__).with_name("toy_stage.py")),
        str(path),
        str(STEPS),
        str(pause),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_row(process, path, step):
    """Returns once the row of ``step`` is written."""
    for _ in range(12000):
        if (path / "metrics.jsonl").exists() and len(
            (path / "metrics.jsonl").read_bytes().splitlines()
        ) >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("no such row")


def digest(path):
    return read_manifest(path / "checkpoints" / str(STEPS)).params_digest


def test_killed_stopped_and_resumed_equals_uninterrupted(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    calm = start(whole, 0)

    killed = start(parts, 0.03)
    step = random.randint(1, 10)
    wait_for_row(killed, parts, step)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    asked = start(parts, 0.03)
    wait_for_row(asked, parts, 13)
    asked.terminate()
    said = asked.communicate(timeout=240)[1]
    assert asked.returncode == 0 and "run the same command again to resume" in said, said
    saved = latest_step(parts)
    assert 13 <= saved < STEPS and len(rows(parts)) == saved

    last = start(parts, 0)
    assert last.wait(240) == 0, last.communicate()[1]
    assert calm.wait(240) == 0, calm.communicate()[1]
    assert rows(parts) == rows(whole), f"killed after row {step}"
    assert digest(parts) == digest(whole)


def damage_newest(path, how):
    folder = path / "checkpoints" / "8"
    target = {
        "manifest": folder / "manifest" / "manifest.json",
        "state": folder / "state" / "manifest.ocdbt",
    }[how]
    target.write_bytes(target.read_bytes()[:20])
    return folder


@pytest.mark.parametrize("how", ["manifest", "state"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_overwritten(tmp_path, how):
    import toy_stage

    toy_stage.run(tmp_path / "w", 8)
    folder = damage_newest(tmp_path / "w", how)
    before = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=r"checkpoints/8 is damaged.*delete that folder to resume from step 4"
    ) as error:
        toy_stage.run(tmp_path / "w", 9)
    assert "\n" not in str(error.value)
    config = tmp_path / "w" / "config.json"  # its steps may differ, so it alone is new
    after = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    assert {
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    } <= {config}
    (folder / "files.json").unlink()  # without the inventory the damage shows when reading
    with pytest.raises(UserError, match="checkpoints/8 is damaged"):
        toy_stage.run(tmp_path / "w", 9)
    import shutil

    shutil.rmtree(folder)
    assert [result.step for result in toy_stage.run(tmp_path / "w", 9)] == [5, 6, 7, 8, 9]


def test_half_written_steps_do_not_count(tmp_path):
    import toy_stage

    toy_stage.run(tmp_path / "w", 4)
    torn = tmp_path / "w" / "checkpoints" / "6.orbax-checkpoint-tmp"
    (torn / "state").mkdir(parents=True)
    assert latest_step(tmp_path / "w") == 4
    assert [result.step for result in toy_stage.run(tmp_path / "w", 6)] == [5, 6]
    assert not torn.exists()


def test_foreign_checkpoints_are_refused(tmp_path):
    import toy_stage

    toy_stage.run(tmp_path / "w", 4)
    with pytest.raises(UserError, match="written by stage 'toy', not 'sft'"):
        toy_stage.run(tmp_path / "w", 5, toy_stage.ToyStage(name="sft"))
    with pytest.raises(UserError, match=r"head/kernel is \(\(6, 1\).*\(\(7, 1\)"):
        toy_stage.run(tmp_path / "w", 5, toy_stage.ToyStage(width=7))
