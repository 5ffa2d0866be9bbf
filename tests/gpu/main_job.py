"""Seconds from the start of ``configs/unified.py`` to its first steps, for ``check.sh``.

    python tests/gpu/main_job.py RESULT.json [--config.KEY=VALUE ...]

The run is stopped by SIGTERM after ``STEPS`` steps, and saves; how long that takes is measured too.
"""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

STEPS = 3
POLL_SECONDS = 0.05


def rows_of(metrics: pathlib.Path) -> list[dict[str, Any]]:
    """The complete rows of a ``metrics.jsonl``."""
    if not metrics.is_file():
        return []
    lines = metrics.read_text("utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if "time/step" in row]


def watch(command: list[str], workdir: pathlib.Path, result: pathlib.Path) -> int:
    """Runs the command until ``STEPS`` steps are done; writes what it saw after each of them.

    Returns:
      the exit code of the run; 0 where it is the one of a run that was stopped and saved.
    """
    start = time.perf_counter()
    values: dict[str, Any] = {"command": command[1:], "seconds_to_step": []}
    process = subprocess.Popen(command)
    try:
        while True:
            # Looked at before the rows, so that those of a run that has just ended count.
            has_ended = process.poll() is not None
            rows = rows_of(workdir / "metrics.jsonl")
            for _ in rows[len(values["seconds_to_step"]) :]:
                values["seconds_to_step"].append(time.perf_counter() - start)
                values["step_seconds"] = [row["time/step"] for row in rows]
                result.write_text(json.dumps(values), "utf-8")
            if has_ended or len(rows) >= STEPS:
                break
            time.sleep(POLL_SECONDS)

        # A signal makes the run save and end.
        stopped = time.perf_counter()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        values["exit_code"] = process.wait()
        values["seconds_to_save"] = time.perf_counter() - stopped
        result.write_text(json.dumps(values), "utf-8")
    finally:
        process.kill()
    return 0 if len(values["seconds_to_step"]) >= STEPS else 1


def main() -> int:
    """Trains in a temporary folder."""
    # ``timeout`` sends SIGTERM, which must end the run too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(124))
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        command = [sys.executable, "-m", "corl_jax.main", "--config=configs/unified.py"]
        command += [f"--workdir={workdir}", *sys.argv[2:]]
        return watch(command, workdir, pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
