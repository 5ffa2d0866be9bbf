"""A run in a bucket, through the real clients of Google Cloud Storage, over loopback."""

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
from helpers import metric_rows

from corl_jax.engine.checkpoints.manifest import read_manifest

STEPS = 11
COMMITTED = "run/checkpoints/{}/commit_success.txt"


@pytest.fixture
def bucket():
    pytest.importorskip("gcsfs", reason="needs pip install gcsfs, as in corl_jax[gcs]")
    bucket = Bucket()
    yield bucket
    bucket.close()


def start(bucket, pause):
    """A run of the toy stage in the bucket, in a process of its own."""
    env = os.environ | bucket.environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    program = Path(__file__).with_name("toy_stage.py")
    command = [sys.executable, str(program), "gs://bucket/run", str(STEPS), str(pause)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_bit_for_bit(bucket, tmp_path):
    killed, unfinished = start(bucket, 0.05), "run/checkpoints/8/state/"
    deadline = time.monotonic() + 240
    while not any(name.startswith(unfinished) for name in list(bucket.objects)):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()[1]
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert COMMITTED.format(4) in bucket.objects and COMMITTED.format(8) not in bucket.objects
    # Rows are never behind a checkpoint; the run may be further, since a thread writes it.
    assert len(bucket.objects["run/metrics.jsonl"][0].splitlines()) >= 8

    resumed = start(bucket, 0)
    stderr = resumed.communicate(timeout=240)[1]
    assert resumed.returncode == 0, stderr
    assert COMMITTED.format(8) in bucket.objects and COMMITTED.format(STEPS) in bucket.objects
    # The two newest checkpoints are kept.
    assert not any(name.startswith("run/checkpoints/4/") for name in bucket.objects)

    # The same run in a folder, uninterrupted.
    toy_stage.run(tmp_path, STEPS, toy_stage.ToyStage(updates_per_step=2))
    bucket_rows = []
    for line in bucket.objects["run/metrics.jsonl"][0].splitlines():
        row = json.loads(line)
        bucket_rows.append({k: v for k, v in row.items() if not k.startswith("time/")})
    assert bucket_rows == metric_rows(tmp_path)

    manifest = json.loads(bucket.objects[f"run/checkpoints/{STEPS}/manifest/manifest.json"][0])
    expected = read_manifest(tmp_path / "checkpoints" / str(STEPS)).params_digest
    assert manifest["params_digest"] == expected is not None
