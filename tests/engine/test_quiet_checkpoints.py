"""Reading a checkpoint prints nothing of Orbax's own, whichever module reads it."""

import subprocess
import sys

import pytest

READERS = ("checkpoint", "handoff")


@pytest.mark.parametrize("reader", READERS)
def test_orbax_says_only_errors(reader):
    code = (
        f"import corl_jax.engine.checkpoints.{reader}\n"
        "import absl.logging\n"
        "absl.logging.warning('a warning of Orbax')\n"
        "absl.logging.error('an error')\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "an error" in process.stderr and "a warning" not in process.stderr
