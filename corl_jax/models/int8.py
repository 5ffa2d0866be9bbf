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
from corl_jax.models.products import round_to, wide_einsum


@pytree()
class Int8:
    """An array as ``values * scale``.

    Attributes:
      values: int8, of the array's shape.
      scale: float32, of the same rank with size 1 along the axis that was quantized.
    """

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.values.shape

    @classmethod
    def quantize(cls, x: jax.Array, axis: int) -> Int8:
        """Rounds to the nearest int8; the largest magnitude along ``axis`` becomes 127."""
        x = x.astype(jnp.float32)
        largest = jnp.max(jnp.abs(x), axis, keepdims=True)
        # Zeros stay zeros: a slice of zeros gets scale 1 instead of a division by 0.
        scale = jnp.where(largest > 0, largest / 127, 1.0)
        return cls(jnp.round(x / scale).astype(jnp.int8), scale)

    def dequantize(self, dtype: DTypeLike) -> jax.Array:
        """The array. A product of few rows needs no such array, see ``query_key_products``."""
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


def dequantized(x: jax.Array | Int8, dtype: DTypeLike) -> jax.Array:
    """``x`` in ``dtype`` if it is int8, else as it is."""
    return x.dequantize(dtype) if isinstance(x, Int8) else x


def query_key_products(
    q_NKMC: Float[Array, "N K M C"], k_NKSC: Float[Array, "N K S C"] | Int8
) -> Float[Array, "N K M S"]:
    """Products of queries and keys in float32.

    The scale of an int8 key multiplies its products. So the product takes the int8 values, which
    every compute dtype holds exactly. Keys times scales would be multiplied and rounded, each of
    their numbers, at every token that reads them.
    """
    if not isinstance(k_NKSC, Int8):
        return wide_einsum("NKMC,NKSC->NKMS", q_NKMC, k_NKSC)
    values_NKSC = k_NKSC.values.astype(q_NKMC.dtype)
    products_NKMS = query_key_products(q_NKMC, values_NKSC)
    return products_NKMS * k_NKSC.scale.swapaxes(-1, -2)


def weighted_values(
    weights_NKMS: Float[Array, "N K M S"],
    v_NKSC: Float[Array, "N K S C"] | Int8,
    dtype: DTypeLike,
) -> Float[Array, "N K M C"]:
    """Sums of values by ``weights``, in float32; of int8 values the scales multiply the weights.

    Args:
      weights_NKMS: in float32, and rounded to ``dtype`` for the product.
      v_NKSC: values, in ``dtype`` or int8.
      dtype: the compute dtype.
    """
    if isinstance(v_NKSC, Int8):
        weights_NKMS = weights_NKMS * v_NKSC.scale.swapaxes(-1, -2)
        v_NKSC = v_NKSC.values.astype(dtype)
    return wide_einsum("NKMS,NKSC->NKMC", round_to(weights_NKMS, dtype), v_NKSC)


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
