"""Low-rank adapters on linear maps (Hu et al. 2021, "LoRA", section 4.1): ``x W + alpha / rank (x A) B``.

In: an abstract model and what to adapt; later its parameters. Out: the model with adapters beside the kernels, fresh
adapters, and kernels with their adapters added. An adapter lies beside its kernel: ``.../q_proj/kernel`` has
``.../q_proj/lora_a`` ``[..., inputs, rank]`` and ``.../q_proj/lora_b`` ``[..., rank, outputs]``, both float32, stacked
over layers where the kernel is, and spread over a mesh as the kernel's own axes are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.errors import UserError
from corl_jax.core.rng import stream
from corl_jax.core.trees import matches
from corl_jax.core.types import Params
from corl_jax.models.layers import matmul_over_rows

ADAPTERS = ("*/lora_a", "*/lora_b")
"""Patterns of their paths."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """``rank`` of the adapters, 0 for none; ``alpha``, which over the rank is their weight; ``target``: patterns of the
    paths of kernels that get one."""

    rank: int = 0
    alpha: float = 16.0
    target: tuple[str, ...] = ("language_model/layers/*/kernel",)

    @property
    def scale(self) -> float:
        """Weight of the adapters' product; 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0


class LoraLinear(nnx.Module):
    """An ``nnx.Linear`` with an adapter beside its kernel; with ``lora_b`` zero it gives the same bits."""

    def __init__(self, of: nnx.Linear, lora: Lora):
        kernel, (inputs, outputs) = of.kernel, of.kernel.get_metadata()["logical"]
        *stacked, rows, columns = kernel.shape
        self.dtype, self.scale, self.kernel, self.bias = of.dtype, lora.scale, kernel, of.bias
        self.lora_a = nnx.Param(jnp.zeros((*stacked, rows, lora.rank)), logical=(inputs, None))
        self.lora_b = nnx.Param(jnp.zeros((*stacked, lora.rank, columns)), logical=(None, outputs))

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``."""
        x, kernel, lora_a, lora_b = (
            one.astype(self.dtype)
            for one in (x, self.kernel[...], self.lora_a[...], self.lora_b[...])
        )
        out = matmul_over_rows(x, kernel, None) + self.scale * matmul_over_rows(
            matmul_over_rows(x, lora_a, None), lora_b, None
        )
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)


def adapt(model: Any, lora: Lora) -> Any:
    """``model``, changed in place, with adapters on the linear maps whose kernels ``lora.target`` names.

    Raises:
      UserError: a pattern that names no linear map, or a rank that is none beside a kernel.
    """
    found = set()
    for path, module in list(nnx.iter_modules(model)):
        for name, part in list(vars(module).items()):
            kernel = "/".join(map(str, (*path, name, "kernel")))
            if not isinstance(part, nnx.Linear) or not matches(kernel, lora.target):
                continue
            *_, inputs, outputs = part.kernel.shape
            if lora.rank >= min(inputs, outputs):
                raise UserError(
                    f"lora.rank={lora.rank} is no low rank for {kernel} of {inputs} x {outputs}; expected less than "
                    f"{min(inputs, outputs)}"
                )
            found.add(kernel)
            setattr(module, name, LoraLinear(part, lora))
    for pattern in lora.target:
        if not any(matches(kernel, [pattern]) for kernel in found):
            raise UserError(
                f"lora.target pattern {pattern!r} names no linear map; expected patterns of kernels such as "
                "'language_model/layers/*/kernel' or 'language_model/layers/attention/?_proj/kernel'"
            )
    return model


def is_adapter(path: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return matches(path, ADAPTERS)


def kernel_of(path: str) -> str:
    """Path of the kernel that an adapter's parameter lies beside."""
    return path.rpartition("/")[0] + "/kernel"


def without(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, or shapes, that belong to no adapter."""
    return {path: leaf for path, leaf in params.items() if not is_adapter(path)}


def fresh(structs: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> Params:
    """Adapters that add nothing yet, placed: A normal with variance 1 / inputs, B zero.

    Args:
      structs: shape and placement by path; what belongs to no adapter is passed over.
      seed: each A is a function of it and of its path.
    """
    wanted = {path: struct for path, struct in structs.items() if is_adapter(path)}

    @functools.partial(
        jax.jit, out_shardings={path: struct.sharding for path, struct in wanted.items()}
    )
    def make() -> Params:
        return {
            path: jax.random.normal(stream(seed, path), struct.shape) * struct.shape[-2] ** -0.5
            if path.endswith("lora_a")
            else jnp.zeros(struct.shape)
            for path, struct in wanted.items()
        }

    return make()


def merged(params: Params, scale: float, structs: Mapping[str, Any]) -> Params:
    """Parameters of the model without adapters: each kernel is ``W + scale A B``, added up in float32 and then cast.

    Args:
      params: with adapters; without any they are handed on as they are.
      scale: ``Lora.scale``.
      structs: by path of a kernel, the dtype it is wanted in. It stays where it lies.
    """
    adapted = sorted({kernel_of(path) for path in params if is_adapter(path)})
    if not adapted:
        return params
    triples = tuple(
        tuple(params[path] for path in (kernel, *_beside(kernel))) for kernel in adapted
    )
    wanted = tuple((jnp.dtype(structs[path].dtype), params[path].sharding) for path in adapted)
    return dict(
        sorted(
            (
                without(params) | dict(zip(adapted, _merger(wanted, scale)(triples), strict=True))
            ).items()
        )
    )


def _beside(kernel: str) -> tuple[str, str]:
    home = kernel.removesuffix("kernel")
    return home + "lora_a", home + "lora_b"


@functools.lru_cache(maxsize=4)
def _merger(wanted: tuple[tuple[Any, Any], ...], scale: float) -> Any:
    def merge(triples):
        return tuple(
            (
                kernel.astype(jnp.float32)
                + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
            ).astype(dtype)
            for (kernel, a, b), (dtype, _) in zip(triples, wanted, strict=True)
        )

    return jax.jit(merge, out_shardings=tuple(sharding for _, sharding in wanted))
