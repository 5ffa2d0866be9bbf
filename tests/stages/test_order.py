"""Two processes, then one, then two again read the same records in the same order as one alone."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys

from corl_jax.data.shapes import builder

ROOT = pathlib.Path(__file__).parents[2]
WORKER = ROOT / "tests/stages/order_worker.py"
STEPS = 50


def read_here(monkeypatch, folder, data_dir, first, last):
    """Reads some steps in this process, which is alone."""
    main = runpy.run_path(str(WORKER))["main"]
    with monkeypatch.context() as patch:
        patch.setattr(builder, "source", builder.source)  # the worker replaces it
        main(str(folder), str(data_dir), str(first), str(last))


def read_by_two(folder, data_dir, first, last):
    """Starts two processes for some steps, and waits for them."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{sock.getsockname()[1]}"
    command = [sys.executable, str(WORKER), str(folder), str(data_dir), str(first), str(last)]
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    running = [
        subprocess.Popen(
            [*command, coordinator, "2", str(i)],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        stderr = process.communicate(timeout=200)[1]
        assert process.returncode == 0, stderr


def read_steps(folder):
    """Start and number of a process, to variant, step, row and id of what it has read."""
    return {
        file.stem: {
            name: {
                int(step): {int(row): id_ for row, id_ in rows.items()}
                for step, rows in steps.items()
            }
            for name, steps in json.loads(file.read_text()).items()
        }
        for file in folder.glob("*.?.json")
    }


def test_resuming_on_another_number_of_processes_keeps_ids_and_their_order(tmp_path, monkeypatch):
    """Also with several parts, with a stream per task, and with records that leave."""
    alone_folder, folder = tmp_path / "alone", tmp_path / "several"
    alone_folder.mkdir()
    folder.mkdir()
    data = tmp_path / "data"
    read_here(monkeypatch, alone_folder, data, 0, STEPS)
    read_by_two(folder, data, 0, 20)
    read_here(monkeypatch, folder, data, 20, 35)
    read_by_two(folder, data, 35, STEPS)

    alone = read_steps(alone_folder)["0.0"]
    parts = read_steps(folder)
    for name in alone:
        # Two processes read different rows of a step, all of them together.
        halves = [parts[f"0.{i}"][name][0] for i in (0, 1)]
        assert len(halves[0]) == len(halves[1]) > 0 and not halves[0].keys() & halves[1].keys()
        for step in range(STEPS):
            read = {}
            for part in parts.values():
                read |= part[name].get(step, {})
            assert read == alone[name][step], (name, step)

    # What is compared is alive: several epochs, and records of both parts.
    one_source = [tuple(alone["one source"][step].values()) for step in range(STEPS)]
    assert len({id_ for ids in one_source for id_ in ids}) == 96 and len(set(one_source)) == STEPS
    mixed = [id_ for step in range(STEPS) for id_ in alone["mixture"][step].values()]
    assert sum(id_.startswith("counts/") for id_ in mixed) == STEPS * 8 // 4
    assert alone["mixture"] != alone["history"]
    per_task = alone["a mixture per task"][7]
    assert len(per_task) == 12 and all(per_task[i].startswith("counts/") for i in range(8, 12))
