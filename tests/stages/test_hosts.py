"""Several real processes on this machine give the numbers of one; any number of them resumes."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import metric_rows

from corl_jax.core.errors import UserError
from corl_jax.core.processes import DistributedConfig, connect_processes

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4


def launch(config, workdir, data_dir, processes, devices=None):
    """Runs ``config`` on several processes; their exit codes and what they wrote to stderr.

    Args:
      config: of all processes, or a list of one for each.
      devices: of each process; None spreads ``DEVICES`` over them.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{sock.getsockname()[1]}"
    if devices is None:
        devices = [DEVICES // processes] * processes

    running = []
    for i in range(processes):
        file = workdir.with_suffix(f".{i}.json")
        file.write_text(json.dumps(config[i] if isinstance(config, list) else config), "utf-8")
        process_args = [coordinator, str(processes), str(i)] if processes > 1 else []
        worker = str(ROOT / "tests/stages/host_worker.py")
        command = [sys.executable, worker, str(file), str(workdir), str(data_dir), *process_args]
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices[i]}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        running.append(
            subprocess.Popen(command, env=env, cwd=ROOT, text=True, stderr=subprocess.PIPE)
        )

    errors = [process.communicate(timeout=280)[1] for process in running]
    return [process.returncode for process in running], errors


def assert_same_rows(rows, expected_rows):
    """Equal steps and columns, and numbers that are equal up to rounding."""
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def config(rl_config):
    """Images and answers in different numbers of rows, on a mesh with two axes."""
    return rl_config(
        text="tens",
        **{
            "steps": 3,
            "rl.rollout.image_prompts": 4,
            "rl.rollout.text_prompts": 8,
            "rl.advantage.resample_rounds": 1,
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "hooks.sample_every": 1,
            "hooks.save_every": 1,
            "hooks.keep_checkpoints": 3,
        },
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of all work directories, and of the records in ``data``."""
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def rows_of_one_process(config, folder):
    """Rows of three steps of one process."""
    codes, errors = launch(config, folder / "one", folder / "data", 1)
    assert codes == [0], errors
    return metric_rows(folder / "one")


@pytest.fixture(scope="module")
def workdir_of_two(config, folder, rows_of_one_process):
    """The work directory of three steps of two processes."""
    codes, errors = launch(config, folder / "two", folder / "data", 2)
    assert codes == [0, 0], errors
    return folder / "two"


def test_two_processes_train_as_one(rows_of_one_process, workdir_of_two):
    assert_same_rows(metric_rows(workdir_of_two), rows_of_one_process)
    assert len(list((workdir_of_two / "samples").glob("*.png"))) == 3

    # What is compared is alive.
    first_row = rows_of_one_process[0]
    assert any(row["text/resampled"] > 0 for row in rows_of_one_process)
    assert first_row["grad_norm"] > 0
    assert first_row["image/reward_std"] > 0 and first_row["text/reward_std"] > 0


@pytest.mark.parametrize(("trained_by", "processes"), [("two", 1), ("one", 2)])
def test_another_number_of_processes_resumes(
    rows_of_one_process, workdir_of_two, config, folder, trained_by, processes
):
    workdir = folder / f"resumed_by_{processes}"
    shutil.copytree(folder / trained_by, workdir)
    shutil.rmtree(workdir / "checkpoints" / "3")
    codes, errors = launch(config, workdir, folder / "data", processes)
    assert codes == [0] * processes, errors
    assert "resuming" in errors[0]
    assert_same_rows(metric_rows(workdir), rows_of_one_process)


def test_processes_of_different_configs_or_sizes(config, folder):
    configs = [config, config | {"seed": 1}]
    codes, errors = launch(configs, folder / "two_configs", folder / "data", 2)
    message = "process 1 of 2 has another config than process 0"
    assert codes == [2, 2] and all(message in text for text in errors), errors
    assert not (folder / "two_configs").exists()

    codes, errors = launch(config, folder / "two_sizes", folder / "data", 2, devices=[3, 1])
    message = "all 2 processes must have the same number of devices; process {} has {} of 4"
    assert codes == [2, 2], errors
    assert message.format(0, 3) in errors[0] and message.format(1, 1) in errors[1], errors


@pytest.mark.parametrize(
    ("distributed", "message"),
    [
        (
            DistributedConfig("127.0.0.1:1", 2, 2),
            "must be from 0 to N - 1 .*got --processes=2 --process=2",
        ),
        (
            DistributedConfig("127.0.0.1:1"),
            "must be from 0 to N - 1 .*got --processes=0 --process=-1",
        ),
        (DistributedConfig("", 2, 0), "need the coordinator; add --coordinator=HOST:PORT"),
    ],
)
def test_a_process_number_that_cannot_be(distributed, message):
    with pytest.raises(UserError, match=message):
        connect_processes(distributed)
