"""The released size: 2.09 billion random parameters in real files. Some minutes and 20 GB of disk.

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
    """The folder, written by another process so that its memory does not count here."""
    folder = tmp_path_factory.mktemp("full") / "janus_pro_1b"
    command = [sys.executable, HERE / "make_folder.py", folder]
    subprocess.run(command, check=True, cwd=HERE.parents[1])
    return folder


def run(code: str, *args: object) -> dict:
    """Runs ``code`` in a new process: its ``output``, and its peak memory in bytes as ``peak``."""
    print_output = """
import json, resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(output | {"peak": peak}))
"""
    command = [sys.executable, "-c", code + print_output, *map(str, args)]
    process = subprocess.run(
        command, check=True, capture_output=True, text=True, env=_environment(), cwd=HERE.parents[1]
    )
    return json.loads(process.stdout.splitlines()[-1])


def corl(*args: object) -> None:
    """Runs ``corl`` in a new process."""
    command = [sys.executable, "-m", "corl_jax.commands.cli", *map(str, args)]
    subprocess.run(command, check=True, env=_environment())


def _environment() -> dict[str, str]:
    """One device, as a user has it; the eight of the tests would only cost memory."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return env | {"JAX_PLATFORMS": "cpu"}


LOAD = """
import sys
from corl_jax import Policy
policy = Policy.load(sys.argv[1])
output = {"dtype": str(policy.params["language_model/lm_head/kernel"].dtype)}
"""

GENERATE_AND_ANSWER = """
import sys, numpy as np
from corl_jax import Policy
policy = Policy.load(sys.argv[1])
tokens = policy.sample_image_tokens(["a red circle"], 1, guidance=5.0, length=8)
image = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
answers = policy.answer([image], ["what is this?"], max_tokens=4)
output = {"tokens": tokens.tolist(), "answers": answers}
"""

ENCODE_AND_DECODE = """
import sys, time, numpy as np
from corl_jax import ImageCodec
codec = ImageCodec.load(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
tokens = codec.encode([image])
start = time.monotonic()
decoded = codec.decode(tokens)
seconds = time.monotonic() - start
output = {"tokens": list(tokens.shape), "decoded": list(decoded.shape), "seconds": seconds}
"""


def test_loading_needs_less_memory_than_twice_the_file(folder, capsys):
    size = (folder / "model.safetensors").stat().st_size
    output = run(LOAD, folder)
    with capsys.disabled():
        corl("inspect", "--policy", folder)
        print(f"peak of loading {output['peak'] / 1e9:.2f} GB, folder {size / 1e9:.2f} GB")
    assert output["dtype"] == "bfloat16" and output["peak"] < 2 * size


def test_counts(folder):
    headers = open_weights(folder).headers
    counts = {name: int(np.prod(header.shape)) for name, header in headers.items()}
    assert sum(counts.values()) == 2_089_297_547
    language_model = [count for name, count in counts.items() if name.startswith("language_model.")]
    assert sum(language_model) == 1_652_656_128


def test_generates_and_answers(folder, capsys):
    output = run(GENERATE_AND_ANSWER, folder)
    tokens, answers = output["tokens"], output["answers"]
    with capsys.disabled():
        print(f"{tokens}, {answers!r}, peak {output['peak'] / 1e9:.2f} GB")
    assert np.shape(tokens) == (1, 1, 8) and np.max(tokens) < 16384
    assert len(answers) == 1


def test_the_image_tokenizer_alone(folder, capsys):
    output = run(ENCODE_AND_DECODE, folder)
    with capsys.disabled():
        print(
            f"384 pixels decoded in {output['seconds']:.1f} s with compilation, "
            f"peak {output['peak'] / 1e9:.2f} GB"
        )
    assert output["tokens"] == [1, 576] and output["decoded"] == [1, 384, 384, 3]


@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_export_keeps_every_number(folder, tmp_path, layout):
    exported = tmp_path / layout
    corl("export", "--policy", folder, "--out", exported, "--layout", layout)

    # Back to the original layout, so that names can be compared.
    if layout == "transformers":
        original = tmp_path / "original"
        corl("export", "--policy", exported, "--out", original, "--layout", "original")
        exported = original

    # In between, the transformers layout loses the tensors that we do not read.
    before, after = open_weights(folder), open_weights(exported)
    assert not after.headers.keys() - before.headers.keys()
    missing = before.headers.keys() - after.headers.keys()
    assert len(missing) == (0 if layout == "original" else 14)
    for name, header in after.headers.items():
        assert header == before.headers[name], name
        assert before.read(name).tobytes() == after.read(name).tobytes(), name
