"""Random parameters of sensible size, filled by NumPy: nothing is compiled, so a small net is there at once."""

from __future__ import annotations

import numpy as np
from flax import nnx

from corl_jax.core.trees import flatten_abstract


def random_params(module: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters by path for a module under ``nnx.eval_shape``.

    Kernels are normal with variance 1 / fan-in, scales lie around one and biases around zero (standard deviation .1, so
    that a forgotten one shows), other vectors are positive as the weights of a distance have to be, tables are normal.
    """
    rng, params = np.random.default_rng(seed), {}
    for path, leaf in flatten_abstract(module).items():
        values = rng.normal(size=leaf.shape)
        if path.endswith("kernel"):
            stacked = "/layers/" in "/" + path  # the leading axis counts layers
            values *= np.prod(leaf.shape[int(stacked) : -1]) ** -0.5
        elif path.endswith(("scale", "bias")):
            values = 0.1 * values + path.endswith("scale")
        elif values.ndim == 1:
            values = np.abs(values)
        params[path] = np.asarray(values, leaf.dtype)
    return params
