"""Low-rank adapters on linear maps: ``x W + alpha / rank (x A) B``.

Hu et al. 2021, "LoRA", section 4.1. The adapter of a kernel ``.../q_proj/kernel`` has the
parameters ``.../q_proj/lora_a`` ``[..., inputs, rank]`` and ``.../q_proj/lora_b``
``[..., rank, outputs]``. Both are float32, stacked over layers where the kernel is, and sharded
like the axes that they share with the kernel.

An abstract model goes in, with the patterns to adapt; the model with adapters comes out. Later, its
parameters go in, and kernels with their adapters merged come out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.checks.config_block import Count, Interval, NotEmpty, config_block
from corl_jax.core.errors import UserError
from corl_jax.core.rng import stream
from corl_jax.core.trees import matches
from corl_jax.core.types import Params
from corl_jax.models.layers import is_wide
from corl_jax.models.products import matmul_over_rows, wide_matmul_over_rows

Module = TypeVar("Module", bound=nnx.Module)
Leaf = TypeVar("Leaf")

ADAPTER_PATTERNS = ("*/lora_a", "*/lora_b")
"""Patterns of the paths of adapters."""


@config_block
class Lora:
    """Which kernels have adapters, and of what size.

    Attributes:
      rank: of the adapters; 0 trains whole parameters.
      alpha: divided by the rank, it is the weight of the adapters' product.
      target: patterns of the paths of kernels that have an adapter.
    """

    rank: Count = 0
    alpha: Annotated[float, Interval(gt=0), "At 0 the adapters add nothing"] = 16.0
    target: Annotated[
        tuple[str, ...], NotEmpty(), "It names kernels by patterns of their paths"
    ] = ("language_model/layers/*/kernel",)

    @property
    def scale(self) -> float:
        """Weight of the adapters' product; 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0


class LoraLinear(nnx.Module):
    """An ``nnx.Linear`` with an adapter; with ``lora_b`` zero it gives the same bits."""

    def __init__(self, linear: nnx.Linear, lora: Lora):
        # Leading axes of the kernel count layers, and the adapter has them too.
        input_axis, output_axis = linear.kernel.get_metadata()["logical"]
        *stack, inputs, outputs = linear.kernel.shape

        # The kernel keeps its path. Zeros only give shapes; ``init_adapters`` makes the numbers.
        self.dtype, self.scale = linear.dtype, lora.scale
        self.matmul = wide_matmul_over_rows if is_wide(linear) else matmul_over_rows
        self.kernel, self.bias = linear.kernel, linear.bias
        self.lora_a = nnx.Param(jnp.zeros((*stack, inputs, lora.rank)), logical=(input_axis, None))
        self.lora_b = nnx.Param(
            jnp.zeros((*stack, lora.rank, outputs)), logical=(None, output_axis)
        )

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``."""
        x, kernel_AE, lora_a_AR, lora_b_RE = (
            leaf.astype(self.dtype)
            for leaf in (x, self.kernel[...], self.lora_a[...], self.lora_b[...])
        )
        # (x A) B instead of x (A B): two thin products instead of a matrix of the kernel's size.
        base = self.matmul(x, kernel_AE)
        low_rank = self.matmul(matmul_over_rows(x, lora_a_AR), lora_b_RE)
        y = base + self.scale * low_rank
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def add_adapters(model: Module, lora: Lora) -> Module:
    """Adds adapters to the linear maps whose kernels match ``lora.target``.

    Args:
      model: changed in place.
      lora: rank and patterns.

    Returns:
      ``model``.

    Raises:
      UserError: a pattern that names no linear map, or a rank that is not low for a kernel.
    """
    adapted = set()
    # A list, since modules are replaced while we go through them.
    for path, module in list(nnx.iter_modules(model)):
        for name, child in list(vars(module).items()):
            kernel = "/".join(map(str, (*path, name, "kernel")))
            if not isinstance(child, nnx.Linear) or not matches(kernel, lora.target):
                continue

            # With a rank as large as a side of the kernel, an adapter would be larger than it.
            *_, inputs, outputs = child.kernel.shape
            if lora.rank >= min(inputs, outputs):
                raise UserError(
                    f"config.lora.rank must be less than {min(inputs, outputs)} for {kernel} of "
                    f"{inputs} x {outputs}; got {lora.rank}. Lower it, or change config.lora.target"
                )
            adapted.add(kernel)
            setattr(module, name, LoraLinear(child, lora))

    # A pattern without an effect is most likely misspelt.
    for pattern in lora.target:
        if not any(matches(kernel, [pattern]) for kernel in adapted):
            raise UserError(
                f"config.lora.target pattern {pattern!r} names no linear map; expected patterns of "
                "kernels such as 'language_model/layers/*/kernel' or "
                "'language_model/layers/attention/?_proj/kernel'"
            )
    return model


def is_adapter(path: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return matches(path, ADAPTER_PATTERNS)


def kernel_of(path: str) -> str:
    """Path of the kernel that an adapter's parameter belongs to."""
    return path.rpartition("/")[0] + "/kernel"


def without_adapters(params: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The parameters, or their shapes, that belong to no adapter."""
    return {path: leaf for path, leaf in params.items() if not is_adapter(path)}


def init_adapters(structs: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> Params:
    """New adapters, sharded, which add nothing yet: A normal with variance 1 / inputs, B zero.

    Args:
      structs: shape and sharding by path; paths that belong to no adapter are ignored.
      seed: each A is a function of the seed and of its path.
    """
    adapters = {path: struct for path, struct in structs.items() if is_adapter(path)}
    shardings = {path: struct.sharding for path, struct in adapters.items()}

    @functools.partial(jax.jit, out_shardings=shardings)
    def make() -> Params:
        params = {}
        for path, struct in adapters.items():
            # With B zero the product is zero, and B has a gradient because A is not zero.
            if path.endswith("lora_a"):
                inputs = struct.shape[-2]
                params[path] = jax.random.normal(stream(seed, path), struct.shape) * inputs**-0.5
            else:
                params[path] = jnp.zeros(struct.shape)
        return params

    return make()


def merge_adapters(params: Params, scale: float, structs: Mapping[str, Any]) -> Params:
    """Parameters of the model without adapters: each kernel is ``W + scale A B``.

    The sum is computed in float32 and then cast. Kernels keep their sharding.

    Args:
      params: with adapters; without any, they are returned as they are.
      scale: ``Lora.scale``.
      structs: by path of a kernel, a struct with the dtype of the result.
    """
    # Sorted, so that all processes compile the same program.
    kernels = sorted({kernel_of(path) for path in params if is_adapter(path)})
    if not kernels:
        return params

    # All kernels go through one program, which writes each in its dtype and sharding.
    triples = []
    for kernel in kernels:
        module = kernel.removesuffix("kernel")
        triples.append((params[kernel], params[module + "lora_a"], params[module + "lora_b"]))
    dtypes = tuple(jnp.dtype(structs[path].dtype) for path in kernels)
    shardings = tuple(params[path].sharding for path in kernels)

    # Parameters stay sorted by path.
    merged = _compiled_merge(dtypes, shardings, scale)(tuple(triples))
    params = without_adapters(params) | dict(zip(kernels, merged, strict=True))
    return dict(sorted(params.items()))


@functools.lru_cache(maxsize=4)
def _compiled_merge(
    dtypes: tuple[jnp.dtype, ...], shardings: tuple[jax.sharding.Sharding, ...], scale: float
) -> Callable[..., tuple[jax.Array, ...]]:
    """The program for all kernels of a model at once; cached, since a step of RL calls it anew."""

    def merge(triples):
        merged = []
        for (kernel, lora_a, lora_b), dtype in zip(triples, dtypes, strict=True):
            # Full precision, where a TPU would multiply in bfloat16.
            total = kernel.astype(jnp.float32) + scale * jnp.matmul(
                lora_a, lora_b, precision=jax.lax.Precision.HIGHEST
            )
            merged.append(total.astype(dtype))
        return tuple(merged)

    return jax.jit(merge, out_shardings=shardings)
