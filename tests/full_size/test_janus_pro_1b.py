"""The released size for real: 2.09 B random parameters through the real files. Some minutes and 20 GB of disk:

python -m pytest -m full_size -s
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from corl_jax.porting.tensors import open_weights

pytestmark = pytest.mark.full_size
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder, written in a process of its own."""
    out = tmp_path_factory.mktemp("full") / "janus_pro_1b"
    subprocess.run([sys.executable, HERE / "make_folder.py", out], check=True, cwd=HERE.parents[1])
    return out


def run(code: str, *args: object) -> dict:
    """What ``code`` prints as JSON in a fresh process, with the peak of its memory in bytes."""
    tail = (
        "\nimport json, resource"
        "\nprint(json.dumps(said | {'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))"
    )
    line = [sys.executable, "-c", code + tail, *map(str, args)]
    out = subprocess.run(
        line, check=True, capture_output=True, text=True, env=_environment(), cwd=HERE.parents[1]
    )
    return json.loads(out.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """One device, as a user has it; the tests' eight would only cost memory."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu"
    }


LOAD = """
import sys
from corl_jax import Policy
policy = Policy.load(sys.argv[1])
said = {"dtype": str(policy.params["language_model/lm_head/kernel"].dtype)}
"""

USE = """
import sys, numpy as np
from corl_jax import Policy
policy = Policy.load(sys.argv[1])
codes = policy.sample_image_tokens(["a red circle"], 1, guidance=5.0, length=8)
picture = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
said = {"codes": codes.tolist(), "answer": policy.answer([picture], ["what is this?"], max_tokens=4)}
"""

CODEC = """
import sys, time, numpy as np
from PIL import Image
from corl_jax import ImageCodec
tokenizer = ImageCodec.load(sys.argv[1])
codes = tokenizer.encode([np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)])
began = time.monotonic()
again = tokenizer.decode(codes)
said = {"codes": list(codes.shape), "picture": list(again.shape), "seconds": time.monotonic() - began}
"""


def test_loads_within_twice_its_size(folder, capsys):
    size = (folder / "model.safetensors").stat().st_size
    said = run(LOAD, folder)
    with capsys.disabled():
        subprocess.run(
            [sys.executable, "-m", "corl_jax.commands.cli", "inspect", "--policy", folder],
            check=True,
        )
        print(f"peak of loading {said['peak'] / 1e9:.2f} GB, folder {size / 1e9:.2f} GB")
    assert said["dtype"] == "bfloat16" and said["peak"] < 2 * size


def test_counts(folder):
    shapes = {name: header.shape for name, header in open_weights(folder).headers.items()}
    counts = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(counts.values()) == 2_089_297_547
    assert (
        sum(n for name, n in counts.items() if name.startswith("language_model.")) == 1_652_656_128
    )


def test_draws_and_answers(folder, capsys):
    said = run(USE, folder)
    with capsys.disabled():
        print(f"{said['codes']}, {said['answer']!r}, peak {said['peak'] / 1e9:.2f} GB")
    assert (
        np.shape(said["codes"]) == (1, 1, 8)
        and np.max(said["codes"]) < 16384
        and len(said["answer"]) == 1
    )


def test_image_tokenizer_alone(folder, capsys):
    said = run(CODEC, folder)
    with capsys.disabled():
        print(
            f"384 pixels decoded in {said['seconds']:.1f} s with compilation, peak {said['peak'] / 1e9:.2f} GB"
        )
    assert said["codes"] == [1, 576] and said["picture"] == [1, 384, 384, 3]


@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_goes_out_with_the_same_numbers(folder, tmp_path, layout):
    out = tmp_path / layout
    line = [
        sys.executable,
        "-m",
        "corl_jax.commands.cli",
        "export",
        "--policy",
        folder,
        "--out",
        out,
        "--layout",
        layout,
    ]
    subprocess.run(line, check=True, env=_environment())
    if layout == "transformers":  # and back, since only one layout has all names
        again = tmp_path / "again"
        line = [*line[:3], "export", "--policy", out, "--out", again, "--layout", "original"]
        subprocess.run(line, check=True, env=_environment())
        out = again
    before, after = open_weights(folder), open_weights(out)
    missing = before.headers.keys() - after.headers.keys()
    assert (
        len(missing) == (0 if layout == "original" else 14)
        and not after.headers.keys() - before.headers.keys()
    )
    for name, header in after.headers.items():
        assert header == before.headers[name], name
        assert before.read(name).tobytes() == after.read(name).tobytes(), name
