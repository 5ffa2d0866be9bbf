"""Shared set-up: eight fake CPU devices, parsed absl flags (Grain reads them), shared fixtures."""

import atexit
import contextlib
import importlib
import json
import os
import shutil
import tempfile
from pathlib import Path

# Variables that have to be set before JAX and Hugging Face libraries are imported anywhere.
_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA makes the same program, and LLVM spends less effort on its machine code: most of the time of a
# test is compilation. Processes that tests start inherit it, so that runs stay equal bit for bit.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Programs that several tests compile are compiled once: all processes share a cache, which goes
# with the process that made it. A size makes JAX lock its files.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="corl_jax_xla_")
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(8 * 2**30)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])


MOST_MEMORY_MAPS = 40_000
"""Of a process; Linux ends one with more than 65,530, and a compiled program takes some each."""


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops the programs of earlier modules where they have become many."""
    maps = Path("/proc/self/maps")
    if maps.exists() and sum(1 for _ in maps.open("rb")) > MOST_MEMORY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def test_data():
    """A function from a name to that folder of test data beside the checkout.

    It skips the test where there is none.
    """

    def find(name):
        folder = Path(__file__).resolve().parents[2] / "shared" / name
        if not folder.exists():
            pytest.skip(f"needs the test data {name} in a folder 'shared' beside the checkout")
        return folder

    return find


@pytest.fixture
def rng():
    """A NumPy generator that is the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def float64():
    """64-bit numbers while a test runs, so that sums can be compared exactly."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def torch():
    """PyTorch on one thread, or a skip."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def assert_close():
    """A function that asserts that two arrays differ little, relative to the largest number."""

    def check(actual, expected, tolerance=1e-4):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        assert np.isfinite(expected).all() and expected.std() > 0
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        assert difference < tolerance, f"relative difference {difference:.1e}"

    return check


@pytest.fixture(scope="session")
def random_params():
    """A function from an abstract model to random parameters of sensible size.

    Nothing is compiled.
    """
    from corl_jax.models.random_params import random_params

    return random_params


@pytest.fixture(scope="session")
def write_policy(tmp_path_factory):
    """A function from sizes and a name to a Hugging Face folder with an untrained policy."""
    from helpers import write_untrained_policy

    def write(cfg, name):
        return write_untrained_policy(cfg, tmp_path_factory.mktemp("policy") / name)

    return write


@pytest.fixture(scope="session")
def tiny_policy_folder(write_policy):
    """A folder with an untrained policy of size ``tiny``."""
    from corl_jax.models.janus.config import TINY

    return write_policy(TINY, "tiny")


@pytest.fixture(scope="session")
def dot_policy_folder(write_policy):
    """A folder with an untrained policy whose images are 16 pixels a side in 4 tokens.

    It is the smallest one, for tests that do not depend on size.
    """
    from helpers import dot_config

    return write_policy(dot_config(), "dot")


@pytest.fixture(scope="session")
def tiny_policy(tiny_policy_folder):
    """The policy of ``tiny_policy_folder``, loaded in float32."""
    from corl_jax import Policy

    return Policy.load(tiny_policy_folder, dtype="float32")


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """A context with few records in the embedded world.

    Meshes spread over the first ``devices``, which is its argument.
    """
    from corl_jax.core import sharding
    from corl_jax.data.shapes import builder
    from corl_jax.stages import setup

    folder, open_source = tmp_path_factory.mktemp("shapes"), builder.source

    def small_source(data_dir, split):
        return open_source(folder, split, {"train": 96, "test": 96})

    @contextlib.contextmanager
    def world(devices=1):
        first_devices = jax.devices()[:devices]

        def make_small_mesh(shape, devices):
            return sharding.make_mesh(shape, devices or first_devices)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builder, "source", small_source)
            patch.setattr(setup, "make_mesh", make_small_mesh)
            yield

    return world


@pytest.fixture(scope="session")
def varied_rewards():
    """Rewards whose values differ between samples of an untrained policy.

    ``redness`` of an image and ``letters`` of a text differ from sample to sample; ``tens`` of a
    text are often equal; ``even`` is 0 or 1. One level of one pixel, which rounding may change, does not change
    ``rounded_redness``.
    """
    from corl_jax.rewards.base import rewards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "_entries", dict(rewards._entries))
        rewards.register("redness")(
            lambda cs, context: np.array([c.pixels[..., 0].mean() / 255 for c in cs])
        )
        rewards.register("rounded_redness")(
            lambda cs, context: np.array([round(c.pixels[..., 0].mean() / 255, 2) for c in cs])
        )
        rewards.register("letters")(lambda cs, context: np.array([len(c.text) / 10 for c in cs]))
        rewards.register("tens")(
            lambda cs, context: np.array([round(len(c.text) / 10) for c in cs])
        )
        rewards.register("even")(
            lambda cs, context: np.array(
                [
                    float((len(c.text) if c.pixels is None else int(c.pixels.sum())) % 2 == 0)
                    for c in cs
                ]
            )
        )
        yield


SMALL_VALUES = {
    "tokenizer": {"batch_size": 4},
    "sft": {"batch_size": 4, "sft.understanding_rows": 2},
    "rl": {
        "rl.rollout.image_prompts": 8,
        "rl.rollout.text_prompts": 8,
        "rl.rollout.group_size": 2,
        "rl.rollout.completion_length": 4,
        "evals.num_records": 0,
    },
}
"""Stage to config values that make a run small."""


@pytest.fixture(scope="session")
def small_config(dot_policy_folder):
    """A function from the name of a config to its plain values, small enough for a test.

    The run starts from an untrained policy. Dotted keys may be overridden.
    """

    def make(name, arg=None, policy=dot_policy_folder, **overrides):
        config = importlib.import_module(f"configs.{name}").get_config(arg)
        config.lock()
        values = {
            "steps": 2,
            "init_from": f"image_tokenizer/*={policy}" if config.stage == "sft" else str(policy),
            "hooks.save_every": 0,
            "hooks.sample_every": 0,
            "trackers.every": 0,
            "optim.warmup_ratio": 0.0,
            **SMALL_VALUES[config.stage],
        }
        # A task that the config leaves out stays out.
        for key in ("image_prompts", "text_prompts"):
            if config.stage == "rl" and config.rl.rollout[key] == 0:
                values[f"rl.rollout.{key}"] = 0
        # So do rows of documents, and of questions.
        if config.stage == "sft":
            for key in ("understanding_rows", "document_rows"):
                values[f"sft.{key}"] = min(config.sft[key], 2)
        config.update_from_flattened_dict(values | overrides)
        return json.loads(config.to_json_best_effort())

    return make
