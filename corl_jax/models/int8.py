"""Numbers in eight bits, for sampling only: the linear maps and the KV cache of the backbone.

Arrays or a bound model go in. int8 values with float32 scales, symmetric about 0, come out, or the
same model over them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corl_jax.core.types import pytree
from corl_jax.models.layers import is_wide


@pytree()
class Int8:
    """An array as ``values * scale``.

    Attributes:
      values: int8, of the array's shape.
      scale: float32, of the same rank with size 1 along the axis that was quantized.
    """

    values: jax.Array
    scale: jax.Array

    @classmethod
    def quantize(cls, x: jax.Array, axis: int) -> Int8:
        """Rounds to the nearest int8; the largest magnitude along ``axis`` becomes 127."""
        x = x.astype(jnp.float32)
        largest = jnp.max(jnp.abs(x), axis, keepdims=True)
        # Zeros stay zeros: a slice of zeros gets scale 1 instead of a division by 0.
        scale = jnp.where(largest > 0, largest / 127, 1.0)
        return cls(jnp.round(x / scale).astype(jnp.int8), scale)

    def dequantize(self, dtype: DTypeLike) -> jax.Array:
        """The array; the compiler fuses this into the product that reads it."""
        return (self.values * self.scale).astype(dtype)


class Int8Linear(nnx.Module):
    """An ``nnx.Linear`` without bias in int8, with a scale per output, and per layer of a stack."""

    def __init__(self, linear: nnx.Linear):
        # Axis -2 of a kernel counts inputs: with their maximum each output gets a scale of its own.
        kernel = Int8.quantize(linear.kernel[...], -2)
        self.dtype = linear.dtype
        self.is_wide = is_wide(linear)
        self.kernel = nnx.Param(kernel.values)
        self.scale = nnx.Param(kernel.scale)

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``, in float32 where the map it replaces gives it."""
        kernel_AE = self.kernel[...].astype(self.dtype)
        product = jnp.dot(x.astype(self.dtype), kernel_AE, preferred_element_type=jnp.float32)

        # A scale per output can be multiplied after the product, so the kernel is read as int8.
        scaled = product * self.scale[0]
        return scaled if self.is_wide else scaled.astype(self.dtype)


def quantize_int8(model: Any, *, weights: bool, cache: bool) -> Any:
    """Makes the linear maps or the KV cache of a model's backbone int8.

    Args:
      model: a ``models.interface.UnifiedModel``, changed in place. Its backbone is an NNX module
        with an attribute ``cache_dtype``.
      weights: whether linear maps become ``Int8Linear``.
      cache: whether ``empty_cache`` makes an int8 cache.

    Returns:
      ``model``.
    """
    if weights:
        # A list, since modules are replaced while we go through them.
        for _, module in list(nnx.iter_modules(model.backbone)):
            for name, child in list(vars(module).items()):
                if isinstance(child, nnx.Linear):
                    setattr(module, name, Int8Linear(child))
    if cache:
        model.backbone.cache_dtype = jnp.int8
    return model
