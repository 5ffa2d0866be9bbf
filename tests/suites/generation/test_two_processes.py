"""Two processes draw the pictures of one and compute the same scores; the first alone writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
WORKER = HERE / "suite_worker.py"
sys.path.insert(0, str(HERE))
from small_policy import write_small_policy  # noqa: E402


def run_processes(policy, folders, devices):
    """Runs one process for each folder together; the output of each."""
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free_port.getsockname()[1]}"
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(HERE.parents[2]),
    }
    processes = []
    for process, folder in enumerate(folders):
        folder.mkdir()
        args = [sys.executable, str(WORKER), str(policy), str(folder)]
        if len(folders) > 1:
            args += [coordinator, str(len(folders)), str(process)]
        processes.append(
            subprocess.Popen(
                args, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    outputs = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        outputs.append(json.loads(stdout.splitlines()[-1]))
    return outputs


def test_two_processes_draw_and_score_as_one(tmp_path):
    policy = write_small_policy(tmp_path / "policy")
    (alone,) = run_processes(policy, [tmp_path / "alone"], devices=2)
    first, second = run_processes(policy, [tmp_path / "first", tmp_path / "second"], devices=1)

    # The hosts have disks of their own, so that the second one has no file at all.
    assert not list((tmp_path / "second").iterdir())
    assert first == second and len(first) == 12
    for (one_id, one), (two_id, two) in zip(alone, first, strict=True):
        assert one_id == two_id and one.keys() == two.keys() == {"redness", "clip_score"}
        assert one["clip_score"] == pytest.approx(two["clip_score"], abs=0.01)
        assert one["redness"] == pytest.approx(two["redness"], abs=0.011)
    for i in range(3):
        grids = [
            np.asarray(Image.open(tmp_path / name / f"pictures/p{i}.png")).astype(int)
            for name in ("alone", "first")
        ]
        assert grids[0].shape == (32, 32, 3) and np.abs(grids[0] - grids[1]).max() <= 1
