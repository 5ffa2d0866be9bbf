"""Random parameters of sensible size from NumPy.

Nothing is compiled, so a small network is ready at once.
"""

from __future__ import annotations

import numpy as np
from flax import nnx

from corl_jax.core.trees import flatten_abstract


def random_params(module: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters by path for a module under ``nnx.eval_shape``.

    Kernels are normal with variance 1 / fan-in, and tables are standard normal. Norm scales have
    mean 1 and biases mean 0, both with standard deviation .1, so that a forgotten one shows. Other
    vectors are positive, as the weights of a distance have to be.
    """
    rng, params = np.random.default_rng(seed), {}
    for path, leaf in flatten_abstract(module).items():
        # Every leaf takes its numbers from one generator, in the order of paths.
        values = rng.normal(size=leaf.shape)
        if path.endswith("kernel"):
            # A stack of layers has a leading axis that is no part of the fan-in.
            is_stacked = "/layers/" in "/" + path
            values *= np.prod(leaf.shape[int(is_stacked) : -1]) ** -0.5
        elif path.endswith(("scale", "bias")):
            # The comparison is 1 for a scale and 0 for a bias, which is their mean.
            values = 0.1 * values + path.endswith("scale")
        elif values.ndim == 1:
            values = np.abs(values)
        params[path] = np.asarray(values, leaf.dtype)
    return params
