"""Numbers in eight bits, for sampling alone: linear maps and the key/value cache of the language model.

In: arrays or a bound model. Out: int8 values with float32 scales, symmetric about 0, and the same model over them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.types import pytree


@pytree()
class Int8:
    """``values * scale``: int8, and float32 with one number along the axis that was scaled; leaves of equal rank."""

    values: Any
    scale: Any

    @classmethod
    def of(cls, x: jax.Array, axis: int) -> Int8:
        """The nearest such numbers; the largest along ``axis`` becomes 127. Zeros stay zeros."""
        x = x.astype(jnp.float32)
        largest = jnp.max(jnp.abs(x), axis, keepdims=True)
        scale = jnp.where(largest > 0, largest / 127, 1.0)
        return cls(jnp.round(x / scale).astype(jnp.int8), scale)

    def to(self, dtype: Any) -> jax.Array:
        """As an array; where it is read by a product, the compiler makes it as it reads."""
        return (self.values * self.scale).astype(dtype)


class Int8Linear(nnx.Module):
    """An ``nnx.Linear`` without bias in eight bits, with one scale for every output (and layer of a stack)."""

    def __init__(self, of: nnx.Linear):
        kernel = Int8.of(of.kernel[...], -2)
        self.dtype, self.kernel, self.scale = (
            of.dtype,
            nnx.Param(kernel.values),
            nnx.Param(kernel.scale),
        )

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``; the scale follows the product, which adds up in float32."""
        kernel = self.kernel[...].astype(self.dtype)
        return (
            jnp.dot(x.astype(self.dtype), kernel, preferred_element_type=jnp.float32)
            * self.scale[0]
        ).astype(self.dtype)


def quantize_int8(model: Any, *, weights: bool, cache: bool) -> Any:
    """``model`` (a ``Janus``, changed in place) with a language model whose linear maps or caches are int8."""
    if weights:
        for _, module in list(nnx.iter_modules(model.language_model)):
            for name, part in list(vars(module).items()):
                if isinstance(part, nnx.Linear):
                    setattr(module, name, Int8Linear(part))
    if cache:
        model.language_model.cache_dtype = jnp.int8
    return model
