"""A run in a bucket, through the real clients of Google Cloud Storage, which talk to a stand-in on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_stage
from bucket import Bucket
from test_loop import rows

from corl_jax.engine.manifest import read_manifest

STEPS = 11
MARK = "run/checkpoints/{}/commit_success.txt"


@pytest.fixture
def bucket():
    pytest.importorskip("gcsfs", reason="needs pip install gcsfs, as in corl_jax[gcs]")
    bucket = Bucket()
    yield bucket
    bucket.close()


def start(bucket, pause):
    env = os.environ | bucket.environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    program = Path(__file__).with_name("toy_stage.py")
    line = [sys.executable, str(program), "gs://bucket/run", str(STEPS), str(pause)]
    return subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_bit_for_bit(bucket, tmp_path):
    killed, begun = start(bucket, 0.05), "run/checkpoints/8/state/"
    deadline = time.monotonic() + 240
    while not any(name.startswith(begun) for name in list(bucket.objects)):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()[1]
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert MARK.format(4) in bucket.objects and MARK.format(8) not in bucket.objects
    assert (
        len(bucket.objects["run/metrics.jsonl"][0].splitlines()) == 8
    )  # rows are never behind a checkpoint

    resumed = start(bucket, 0)
    said = resumed.communicate(timeout=240)[1]
    assert resumed.returncode == 0, said
    assert MARK.format(8) in bucket.objects and MARK.format(STEPS) in bucket.objects
    assert not any(
        name.startswith("run/checkpoints/4/") for name in bucket.objects
    )  # the two newest are kept

    toy_stage.run(tmp_path, STEPS, toy_stage.ToyStage(inner=2))
    found = [json.loads(line) for line in bucket.objects["run/metrics.jsonl"][0].splitlines()]
    assert [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found] == rows(
        tmp_path
    )
    saved = json.loads(bucket.objects[f"run/checkpoints/{STEPS}/manifest/manifest.json"][0])
    assert (
        saved["params_digest"]
        == read_manifest(tmp_path / "checkpoints" / str(STEPS)).params_digest
        is not None
    )
