"""Linear maps held turned round, for a loop that multiplies few rows with the same kernels again and again.

In: maps of a bound model. Out: the same maps with kernels ``[outputs, inputs]``, those of one input as one product. A
CPU reads such kernels as they lie, where ``[inputs, outputs]`` are copied at every use.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.sharding import active


class Turned(nnx.Module):
    """One map, or several of the same input whose outputs are joined; made inside a program, before its loop."""

    def __init__(self, *maps: nnx.Linear):
        self.dtype, self.widths = maps[0].dtype, tuple(one.kernel.shape[-1] for one in maps)
        kernel = jnp.concatenate([one.kernel[...] for one in maps], -1)
        # The barrier keeps the compiler from turning it back at every turn of the loop.
        self.kernel = nnx.Param(jax.lax.optimization_barrier(kernel.astype(self.dtype).T))
        biases = [one.bias[...] for one in maps if one.bias is not None]
        self.bias = nnx.Param(jnp.concatenate(biases)) if biases else None

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``."""
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        out = jax.lax.dot_general(self.kernel[...], rows, (((1,), (1,)), ((), ()))).T.reshape(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)

    def parts(self, x: Float[Array, "... A"]) -> list[jax.Array]:
        """The outputs of each map."""
        ends = [sum(self.widths[: i + 1]) for i in range(len(self.widths) - 1)]
        return jnp.split(self(x), ends, -1)


def turn(module: Any, *names: str) -> None:
    """Turns the named maps of ``module`` in place; those that are no plain linear maps, as in eight bits, stay."""
    for name in names:
        one = getattr(module, name)
        if isinstance(one, nnx.Linear):
            setattr(module, name, Turned(one))


def join(module: Any, *names: str) -> Turned | None:
    """The named maps of ``module`` as one; None where they are no plain linear maps, or lie on several devices."""
    maps, sharder = [getattr(module, name) for name in names], active()
    spread = sharder is not None and sharder.mesh.shape["tensor"] > 1
    if spread or not all(isinstance(one, nnx.Linear) for one in maps):
        return None
    return Turned(*maps)
