"""Several real processes on loopback: the same numbers as one, and checkpoints that change hands between any number."""

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

from corl_jax.core.errors import UserError
from corl_jax.core.processes import DistributedConfig, connect_processes

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4


def launch(config, workdir, data, processes, devices=None):
    """Runs ``config`` on so many processes with ``DEVICES`` devices in all; exit codes and what each said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    running = []
    for i in range(processes):
        file = workdir.with_suffix(f".{i}.json")
        file.write_text(json.dumps(config[i] if isinstance(config, list) else config), "utf-8")
        place = [coordinator, str(processes), str(i)] if processes > 1 else []
        count = (devices or [DEVICES // processes] * processes)[i]
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        line = [
            sys.executable,
            str(ROOT / "tests/stages/host_worker.py"),
            str(file),
            str(workdir),
            str(data),
            *place,
        ]
        running.append(subprocess.Popen(line, env=env, cwd=ROOT, text=True, stderr=subprocess.PIPE))
    said = [process.communicate(timeout=280)[1] for process in running]
    return [process.returncode for process in running], said


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def assert_same(found, wanted):
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def config(rl_config):
    """Pictures and answers by different numbers of rows, on a mesh with two axes."""
    changes = {
        "rl.rollout.image_prompts": 4,
        "rl.rollout.text_prompts": 8,
        "mesh.data": 2,
        "mesh.fsdp": 2,
        "hooks.sample_every": 1,
    }
    return rl_config(
        steps=3, text="tens", **changes, **{"hooks.save_every": 1, "hooks.keep_checkpoints": 3, "rl.advantage.resample_rounds": 1}
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def alone(config, home):
    """Three steps of one process."""
    codes, said = launch(config, home / "alone", home / "data", 1)
    assert codes == [0], said
    return rows(home / "alone")


@pytest.fixture(scope="module")
def pair(config, home, alone):
    """Three steps of two processes."""
    codes, said = launch(config, home / "pair", home / "data", 2)
    assert codes == [0, 0], said
    return home / "pair"


def test_two_processes_train_as_one(alone, pair):
    assert_same(rows(pair), alone)
    assert any(row["text/resampled"] > 0 for row in alone)
    assert (
        alone[0]["grad_norm"] > 0
        and alone[0]["image/reward_std"] > 0
        and alone[0]["text/reward_std"] > 0
    )
    assert len(list((pair / "samples").glob("*.png"))) == 3


@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_goes_on(alone, pair, config, home, processes):
    workdir = home / f"by_{processes}"
    shutil.copytree(pair, workdir)
    shutil.rmtree(workdir / "checkpoints" / "3")
    codes, said = launch(config, workdir, home / "data", processes)
    assert codes == [0] * processes, said
    assert "resuming" in said[0]
    assert_same(rows(workdir), alone)


def test_processes_that_do_not_belong_together(config, home):
    other = config | {"seed": 1}
    codes, said = launch([config, other], home / "two_configs", home / "data", 2)
    assert codes == [2, 2] and all(
        "process 1 of 2 has another config than process 0" in text for text in said
    ), said
    assert not (home / "two_configs").exists()
    codes, said = launch(config, home / "two_sizes", home / "data", 2, devices=[3, 1])
    assert codes == [2, 2] and all(
        "of 4 devices; expected the same number on each of 2" in text for text in said
    ), said


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            DistributedConfig("127.0.0.1:1", 2, 2),
            "must be from 0 to N - 1 .*got --processes=2 --process=2",
        ),
        (DistributedConfig("127.0.0.1:1"), "must be from 0 to N - 1 .*got --processes=0 --process=-1"),
        (DistributedConfig("", 2, 0), "need the coordinator; add --coordinator=HOST:PORT"),
    ],
)
def test_places_that_are_none(hosts, message):
    with pytest.raises(UserError, match=message):
        connect_processes(hosts)
