"""Shared set-up: eight fake CPU devices, parsed absl flags (Grain reads them), one seed per test."""

import os

_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):  # before jax is imported anywhere
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])


@pytest.fixture
def rng():
    """A NumPy generator that is the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def float64():
    """Sixty-four bits for the length of a test, so that sums can be compared exactly."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def random_params():
    """A function from an abstract model to random parameters of sensible size, without compiling anything."""
    from corl_jax.core.trees import flatten_abstract

    def make(model, seed=0):
        rng, params = np.random.default_rng(seed), {}
        for path, leaf in flatten_abstract(model).items():
            values = rng.normal(size=leaf.shape)
            if path.endswith("kernel"):  # not counting a leading axis of layers
                fan_in = np.prod(leaf.shape[1 if "/layers/" in path else 0 : -1])
                values *= fan_in**-0.5
            elif path.endswith(("scale", "bias")):
                values = 0.1 * values + path.endswith("scale")
            params[path] = np.asarray(values, leaf.dtype)
        return params

    return make


@pytest.fixture(scope="session")
def tiny_policy_folder(tmp_path_factory, random_params):
    """A Hugging Face folder with a policy of size ``tiny`` that has learnt nothing."""
    from corl_jax.data.shapes.vocabulary import write_tokenizer
    from corl_jax.models.config import TINY
    from corl_jax.models.unified import abstract
    from corl_jax.porting.save import save_folder

    base = tmp_path_factory.mktemp("policy")
    save_folder(random_params(abstract(TINY)), TINY, write_tokenizer(base / "words"), base / "tiny")
    return base / "tiny"


@pytest.fixture(scope="session")
def tiny_policy(tiny_policy_folder):
    """That policy, loaded in float32."""
    from corl_jax import Policy

    return Policy.load(tiny_policy_folder, dtype="float32")
