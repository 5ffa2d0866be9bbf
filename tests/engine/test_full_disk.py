"""Disks that are full, and folders that nobody may write: one line, nothing lost, and a way on."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import time
from pathlib import Path

import pytest
import toy_stage
from helpers import metric_rows
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints import step_folders
from corl_jax.engine.checkpoints.abandoned_tasks import hidden_abandoned_tasks
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.hooks import PeriodicHook, Report
from corl_jax.engine.trackers.tensorboard import TensorBoard
from corl_jax.engine.writers import JsonLines

DEV_FULL = Path("/dev/full")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KiB, or a skip."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def draw(steps_done, state):
    """A report with an image that takes a few kilobytes."""
    noise = Image.frombytes("RGB", (40, 40), os.urandom(40 * 40 * 3))
    return Report({}, {"noise": noise})


def wait_until_saved(path, step):
    """Returns once the thread beside the loop has completed ``step``."""
    for _ in range(3000):
        if step in saved_steps(path / "checkpoints"):
            return
        time.sleep(0.01)
    raise AssertionError("not saved")


@pytest.mark.parametrize("left", [0, 16, 32, 48])
def test_a_run_on_a_disk_that_fills_up_goes_on_once_there_is_room(
    small_disk, tmp_path, caplog, left
):
    """With 0 KiB left a row is cut, with more an image or a checkpoint."""
    hooks, filler = [PeriodicHook(1, draw)], small_disk / "filler"
    steps = toy_stage.start(small_disk / "w", 12, hooks=hooks)
    with pytest.raises(UserError, match="cannot be written .*[Ff]ree some space") as error:
        for result in steps:
            if result.step == 5:
                wait_until_saved(small_disk / "w", 4)
                status = os.statvfs(small_disk)
                free = status.f_bavail * status.f_frsize
                filler.write_bytes(bytes(free - left * 1024))
    assert "\n" not in str(error.value)
    assert not [record.message for record in caplog.records if record.exc_info]
    assert saved_steps(small_disk / "w" / "checkpoints") == [4]

    # Started again while the disk is still full, and once more when it is not.
    with pytest.raises(UserError, match="cannot be written"):
        toy_stage.run(small_disk / "w", 12, hooks=hooks)
    filler.unlink()
    for path in (small_disk / "w" / "samples").iterdir():
        path.unlink()
    assert [result.step for result in toy_stage.run(small_disk / "w", 12)] == list(range(5, 13))
    toy_stage.run(tmp_path / "unbroken", 12)
    assert metric_rows(small_disk / "w") == metric_rows(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("logger", "path", "message", "is_hidden"),
    [
        ("absl", "site-packages/orbax/futures.py", "run() raised an exception", True),
        ("absl", "site-packages/grain/iterator.py", "run() raised an exception", False),
        ("asyncio", "asyncio/base_events.py", "Task exception was never retrieved\nfuture", True),
        (
            "asyncio",
            "asyncio/base_events.py",
            "_GatheringFuture exception was never retrieved",
            True,
        ),
        ("asyncio", "asyncio/base_events.py", "Exception in callback", False),
    ],
)
def test_tracebacks_of_tasks_that_orbax_abandoned_are_hidden(
    caplog, logger, path, message, is_hidden
):
    error = ValueError("no space")
    record = logging.LogRecord(logger, logging.ERROR, path, 1, message, (), (None, error, None))
    with hidden_abandoned_tasks():
        logging.getLogger(logger).handle(record)
    assert bool(caplog.records) is not is_hidden
    logging.getLogger(logger).handle(record)
    assert record in caplog.records


def step_names(path):
    """Folders of steps, with their endings."""
    return sorted(folder.name for folder in (path / "checkpoints").glob("[0-9]*"))


def test_a_checkpoint_that_cannot_be_completed_is_none(tmp_path, monkeypatch):
    toy_stage.run(tmp_path / "w", 4)

    def refuse(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step_folders, "complete_folder", refuse)
        with pytest.raises(UserError, match="checkpoints/6 cannot be written .OSError: .Errno 28"):
            toy_stage.run(tmp_path / "w", 6)
    assert step_names(tmp_path / "w") == ["4", "6.part"]
    assert [result.step for result in toy_stage.run(tmp_path / "w", 6)] == [5, 6]
    assert step_names(tmp_path / "w") == ["4", "6"]


@pytest.mark.skipif(not DEV_FULL.exists(), reason="needs /dev/full")
def test_rows_on_a_full_disk():
    lines = JsonLines(DEV_FULL)
    with pytest.raises(UserError, match="/dev/full cannot be written"):
        lines.write(1, {"loss": 1.0})


def test_events_on_a_full_disk_end_at_once(tmp_path, monkeypatch):
    """``SummaryWriter`` would wait for its thread, which is gone."""
    from tensorboardX.record_writer import RecordWriter

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    events = TensorBoard(tmp_path / "tb")
    events.write(1, {"loss": 1.0})
    monkeypatch.setattr(RecordWriter, "write", refuse)
    with pytest.raises(UserError, match="tb cannot be written .*No space left"):
        for step in range(100):
            events.write(step, {"loss": 1.0})


def test_event_files_name_no_host(tmp_path):
    import socket

    events = TensorBoard(tmp_path / "tb")
    events.write(4, {"loss": 1.0})
    events.close()
    (path,) = (tmp_path / "tb").iterdir()
    assert "tfevents" in path.name and socket.gethostname() not in path.name
    assert socket.gethostname().encode() not in path.read_bytes()
