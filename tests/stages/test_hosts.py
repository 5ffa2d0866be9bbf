"""Several real processes on this machine give the numbers of one; any number of them resumes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
import pytest
from helpers import metric_rows
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.engine.checkpoints.step_folders import latest_step
from corl_jax.engine.completions import read_completions, saved_steps

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4


def launch(config, workdir, data_dir, processes, devices=None, folders=None, ends=None):
    """Runs ``config`` on several processes; their exit codes and what they wrote to stderr.

    Args:
      config: of all processes, or a list of one for each.
      devices: of each process; None spreads ``DEVICES`` over them.
      folders: where each process runs; None for the checkout.
      ends: a list to which the times are added at which processes end.
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
            subprocess.Popen(
                command,
                env=env,
                cwd=folders[i] if folders else ROOT,
                text=True,
                stderr=subprocess.PIPE,
            )
        )

    def finish(process):
        stderr = process.communicate(timeout=280)[1]
        if ends is not None:
            ends.append(time.monotonic())
        return stderr

    with ThreadPoolExecutor(processes) as pool:
        errors = list(pool.map(finish, running))
    return [process.returncode for process in running], errors


def assert_same_rows(rows, expected_rows):
    """Equal steps and columns, and numbers that are equal up to rounding."""
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def assert_same_samples(workdir, expected_workdir):
    """What the first process has written of its samples is what one process writes of them."""
    assert saved_steps(workdir) == saved_steps(expected_workdir) == [1, 3]
    for step in (1, 3):
        samples, expected = (
            {(it.task, it.record_id, it.sample): it for it in read_completions(folder, step)}
            for folder in (workdir, expected_workdir)
        )
        shared = samples.keys() & expected.keys()
        assert {task for task, _, _ in shared} == {"image", "text"} and len(shared) == len(samples)
        for key in shared:
            assert samples[key].rewards == pytest.approx(expected[key].rewards, abs=0.011)
            assert samples[key].completion == expected[key].completion


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
    assert (workdir_of_two / "report.html").exists()
    assert_same_samples(workdir_of_two, workdir_of_two.with_name("one"))

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


def write_records(folder, damaged=()):
    """Writes 64 records for training and 64 held-out ones; of training, pictures may be damaged."""
    (folder / "records").mkdir(parents=True)
    for split in ("train", "test"):
        rows = []
        for i in range(64):
            path = folder / "records" / f"{split}_{i}.png"
            Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(path)
            if split == "train" and i in damaged:
                path.write_bytes(path.read_bytes()[:50])
            row = {"prompt": "a circle", "real_image": path.name, "qa_problem": "how many?"}
            rows.append(json.dumps(row | {"qa_solution": "one", "qa_type": "OE"}))
        (folder / "records" / f"{split}.jsonl").write_text("\n".join(rows))


def test_a_bad_record_on_one_process_ends_both_within_seconds(small_config, tmp_path):
    """The disk of the second host has damaged pictures, which the first step does not use."""
    values = {"data.source": "./records", "data.check": "texts", "mesh.data": 2}
    config = small_config("tokenizer", **values, steps=4)
    order = grain.MapDataset.range(64).seed(config["seed"]).shuffle()
    first_batch = {int(order[i]) for i in range(config["batch_size"])}
    hosts = [tmp_path / "host0", tmp_path / "host1"]
    write_records(hosts[0])
    write_records(hosts[1], damaged=set(range(64)) - first_batch)

    ends = []
    codes, errors = launch(config, tmp_path / "run", tmp_path, 2, [1, 1], hosts, ends)
    assert codes == [2, 2] and max(ends) - min(ends) < 20, errors
    record = r"record 'train-\d+' \(line \d+ of 'records/train.jsonl'\): image .* cannot be read .*"
    saved = "Step 1 of 4 is saved in .*; run the same command again, corrected, to go on"
    for start, text in zip(("error: process 1 of 2 stopped: ", "error: "), errors, strict=True):
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and re.match(f"{start}{record}{saved}$", lines[0]), text
        assert "Traceback" not in text and "stack trace" not in text, text
    assert latest_step(tmp_path / "run") == 1


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
