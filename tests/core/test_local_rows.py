"""Rows of processes whose devices alternate along the mesh, as on a TPU slice of several hosts."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

WORKER = pathlib.Path(__file__).with_name("rows_worker.py")


def test_rows_of_a_process_need_not_be_contiguous():
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free_port.getsockname()[1]}"
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(WORKER.parents[2]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), coordinator, str(process)],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for process in (0, 1)
    ]  # fmt: skip
    for process in processes:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0 and stdout.splitlines()[-1] == "equal", stderr
