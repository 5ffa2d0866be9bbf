"""``check.sh`` itself needs a GPU or minutes; what it records of its parts does not."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent


def load(name):
    """A script of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_are_added_whatever_became_of_them(tmp_path, monkeypatch):
    record = load("record")
    out, result, log = tmp_path / "gpu.json", tmp_path / "part.json", tmp_path / "part.log"

    def add(name, rc):
        flags = ["--rc", str(rc), "--seconds", "3", "--limit", "9"]
        flags += ["--result", str(result), "--log", str(log)]
        monkeypatch.setattr(sys, "argv", ["record.py", str(out), name, *flags])
        record.main()

    add("nothing_at_all", 1)
    result.write_text('{"ours": 5}')
    log.write_text("\n".join(map(str, range(100))))
    add("decode", 0)
    add("late", 124)
    result.write_text('{"ours": ')
    add("killed", 137)

    parts = json.loads(out.read_text())
    assert list(parts) == ["nothing_at_all", "decode", "late", "killed"]
    assert parts["decode"] == {"status": "ok", "seconds": 3, "limit": 9, "result": {"ours": 5}}
    assert parts["nothing_at_all"]["status"] == "failed with code 1"
    # What a part wrote before its time was over counts.
    assert parts["late"]["status"] == "out of time" and parts["late"]["result"] == {"ours": 5}
    assert parts["late"]["log"][-1] == "99" and len(parts["late"]["log"]) == record.LOG_LINES
    assert parts["killed"]["status"] == "out of time, its result cannot be read"


@pytest.mark.parametrize("rows", [3, 2])
def test_seconds_to_the_first_steps_are_written(tmp_path, rows):
    """A run that writes its rows and waits for the signal, and one that ends too early."""
    job = load("main_job")
    run = tmp_path / "run.py"
    run.write_text(
        "import sys, time\n"
        "file = open(sys.argv[1], 'w')\n"
        "file.write('{\"eval\": 1}\\n')\n"
        f"for i in range({rows}): print('{{\"time/step\": 2}}', file=file, flush=True)\n"
        f"if {rows} == 3: time.sleep(60)\n"
    )
    workdir, result = tmp_path / "run", tmp_path / "result.json"
    workdir.mkdir()
    command = [sys.executable, str(run), str(workdir / "metrics.jsonl")]
    assert job.watch(command, workdir, result) == (0 if rows == 3 else 1)

    values = json.loads(result.read_text())
    assert len(values["seconds_to_step"]) == rows and values["seconds_to_step"][0] > 0
    assert values["step_seconds"] == [2] * rows
    assert values["exit_code"] == (-15 if rows == 3 else 0) and values["seconds_to_save"] >= 0


def test_the_script_wants_a_folder():
    done = subprocess.run(["bash", str(FOLDER / "check.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "usage: tests/gpu/check.sh OUT\n"
