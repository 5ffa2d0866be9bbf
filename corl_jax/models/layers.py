"""Small parts that several networks share: linear maps with logical axes, two-layer MLP, rotary positions, stacking.

In: arrays ``[..., D]`` and NNX random streams. Out: arrays; parameters are float32 and cast to ``dtype`` for compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import all_gather_fsdp

MATMUL_PARAMS = ("kernel", "lora_a", "lora_b")
"""Last parts of the paths of matrices that are cast to the compute dtype before they are gathered."""

REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What a block keeps for its backward pass, by name; ``none`` keeps everything."""


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str | None, str | None],
    *,
    bias: bool,
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A linear map whose kernel carries the logical ``axes``."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        rngs=rngs,
        dot_general=matmul_over_rows,
        kernel_metadata={"logical": axes},
        bias_metadata={"logical": axes[1:]},
    )


def matmul_over_rows(x: jax.Array, kernel: jax.Array, dimensions: Any, **how: Any) -> jax.Array:
    """``x @ kernel`` with all leading axes as one; without, a CPU needs nearly twice as long for the gradient."""
    rows = x.reshape(-1, x.shape[-1])
    return jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **how).reshape(
        *x.shape[:-1], -1
    )


class Mlp2(nnx.Module):
    """Linear, exact GELU, linear, with biases: the aligners and the image head (``modeling_janus.py``)."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.fc1 = linear(inputs, hidden, (None, axes[0]), bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, outputs, axes, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def rotary(
    positions: Int[Array, "N L"], length: int, head_size: int, theta: float
) -> tuple[Float[Array, "N L 1 E"], Float[Array, "N L 1 E"]]:
    """Cosine and sine of the rotary angles of ``E = head_size / 2`` frequencies, in float32.

    Positions lie below ``length``, for which a table is made; one beyond it has no angle, but NaN. Without a table XLA
    fuses the cosine into all that uses it, and a CPU takes it per layer and head: a quarter of the time to draw.
    """
    frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float32) / head_size)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    table = np.stack([np.cos(angles, dtype=np.float64), np.sin(angles, dtype=np.float64)]).astype(
        np.float32
    )
    cos, sin = (
        jnp.take(jnp.asarray(part), positions, axis=0, mode="fill")[:, :, None] for part in table
    )
    return cos, sin


def rotate(x_NLHC: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the first half of every head against the second half, the layout of Hugging Face Llama."""
    cos, sin = cos.astype(x_NLHC.dtype), sin.astype(x_NLHC.dtype)
    first, second = jnp.split(x_NLHC, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> Any:
    """``depth`` modules of one kind as one, every parameter with a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(streams: nnx.Rngs) -> nnx.Module:
        return make(streams)

    return build(rngs)


def unstack(layers: nnx.Module, depth: int) -> tuple[Any, ...]:
    """The modules that ``stack`` put together, each with parameters of its own."""
    graphdef, state = nnx.split(layers)
    return tuple(
        nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(depth)
    )


def gather_layer_params(parameters: Any, dtype: Any) -> Any:
    """One layer's parameters gathered for its use, matrices in the dtype they are multiplied in."""

    def one(path: Any, leaf: Any) -> Any:
        narrow = path[-1] in MATMUL_PARAMS and leaf.dtype == jnp.float32
        value = leaf[...].astype(dtype) if narrow else leaf[...]
        return leaf.replace(all_gather_fsdp(value, leaf.get_metadata()["logical"]))

    flat = nnx.to_flat_state(parameters)
    return nnx.from_flat_state(
        [
            (path, one(path, leaf) if "logical" in leaf.get_metadata() else leaf)
            for path, leaf in flat
        ]
    )


def scan_layers(
    layers: nnx.Module,
    call: Callable[[Any, Any], Any],
    carry: Any,
    depth: int,
    dtype: Any,
    remat: str = "none",
    unroll: int = 1,
) -> Any:
    """Runs stacked ``layers`` in order, ``carry = call(layer, index, carry)``, as one scan.

    Args:
      layers: from ``stack``.
      call: ``(layer, (index, carry)) -> carry``; ``index`` is the traced number of the layer.
      carry: activations, and the cache when decoding (carried, so that it is updated in place).
      depth: number of layers.
      dtype: that they compute in.
      remat: one of ``REMAT_POLICIES``.
      unroll: layers per turn of the loop; more gives the compiler more to overlap, and more to compile.
    """
    if remat not in REMAT_POLICIES:
        raise UserError(
            f"unknown remat policy {remat!r}; expected one of {', '.join(REMAT_POLICIES)}"
        )
    graphdef, state = nnx.split(layers)

    def body(carry, slice_):
        index, parameters = slice_
        return call(
            nnx.merge(graphdef, gather_layer_params(parameters, dtype)), (index, carry)
        ), None

    if remat != "none":
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return jax.lax.scan(body, carry, (jnp.arange(depth), state), unroll=min(unroll, depth))[0]
