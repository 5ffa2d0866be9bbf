"""Small parts that several networks share: linear maps, an MLP, rotary positions, stacked layers.

Arrays ``[..., D]`` and NNX random streams go in, arrays come out. Parameters are float32 with
logical axes, and are cast to ``dtype`` for compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import all_gather_fsdp
from corl_jax.models.products import matmul_over_rows, round_to, wide_matmul_over_rows

Carry = TypeVar("Carry")

RotaryAngles = tuple[Float[Array, "N L 1 E"], Float[Array, "N L 1 E"]]
"""Cosine and sine for every row and position, for all heads alike; ``E`` is half the head size."""

MATMUL_PARAMS = ("kernel", "lora_a", "lora_b")
"""Last parts of the paths of matrices that are cast to the compute dtype before an all-gather."""

REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What a layer saves for its backward pass, by name; ``none`` saves everything (no remat)."""


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str | None, str | None],
    *,
    bias: bool,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    wide: bool = False,
) -> nnx.Linear:
    """A linear map whose kernel has the logical ``axes``, and its bias the last of them.

    With ``wide`` it computes in ``dtype`` and returns float32, see ``products.py``.
    """
    # The bias is sharded as the outputs are.
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        rngs=rngs,
        dot_general=wide_matmul_over_rows if wide else matmul_over_rows,
        kernel_metadata={"logical": axes},
        bias_metadata={"logical": axes[1:]},
    )


def is_wide(linear_map: nnx.Linear) -> bool:
    """Whether a map was made ``wide``."""
    return linear_map.dot_general is wide_matmul_over_rows


class Mlp2(nnx.Module):
    """Linear, exact GELU, linear, with biases: aligners and image head (``modeling_janus.py``).

    With ``wide`` it returns float32, and rounds to ``dtype`` only what the second map reads.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        wide: bool = False,
    ):
        self.dtype = dtype
        self.fc1 = linear(
            inputs, hidden, (None, axes[0]), bias=True, dtype=dtype, rngs=rngs, wide=wide
        )
        self.fc2 = linear(hidden, outputs, axes, bias=True, dtype=dtype, rngs=rngs, wide=wide)

    def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... E"]:
        """``[..., inputs]`` to ``[..., outputs]``."""
        hidden = jax.nn.gelu(self.fc1(x), approximate=False)
        return self.fc2(round_to(hidden, self.dtype))


def rotary_angles(
    positions: Int[Array, "N L"], length: int, head_size: int, theta: float
) -> RotaryAngles:
    """Cosine and sine of the rotary angles of ``E = head_size / 2`` frequencies, in float32.

    Args:
      positions: below ``length``; a position beyond it gets NaN.
      length: positions for which a table is made.
      head_size: size of a head.
      theta: base of the frequencies.
    """
    # NumPy computes the table, a constant of the program. Without it, XLA fuses the cosine into
    # everything that uses it, and a CPU computes it for each layer and head: a quarter of the time
    # of sampling.
    frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float32) / head_size)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    table = np.stack([np.cos(angles, dtype=np.float64), np.sin(angles, dtype=np.float64)])
    cos_table_LE, sin_table_LE = table.astype(np.float32)

    # A position outside the table fills its angles with NaN instead of being clipped silently.
    def lookup(table_LE: np.ndarray) -> Float[Array, "N L 1 E"]:
        return jnp.take(jnp.asarray(table_LE), positions, axis=0, mode="fill")[:, :, None]

    return lookup(cos_table_LE), lookup(sin_table_LE)


def apply_rotary(
    x_NLHC: Float[Array, "N L H C"], cos: Float[Array, "N L 1 E"], sin: Float[Array, "N L 1 E"]
) -> Float[Array, "N L H C"]:
    """Rotates the first half of every head against the second, the layout of Hugging Face Llama.

    It computes in float32.
    """
    # Each pair (first, second) is a point in the plane that turns by the angle of its position. Both
    # halves are rounded before they are one array, which would be written in float32.
    first, second = jnp.split(x_NLHC.astype(jnp.float32), 2, axis=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([round_to(half, x_NLHC.dtype) for half in turned], -1)


def stack(make_layer: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> Any:
    """``depth`` modules of one kind as one module, whose parameters have a leading layer axis."""

    # Each layer has its own random stream, and the fan-in of its initializers is that of one layer.
    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make_stack(layer_rngs: nnx.Rngs) -> nnx.Module:
        return make_layer(layer_rngs)

    return make_stack(rngs)


def unstack(layers: nnx.Module, depth: int) -> tuple[Any, ...]:
    """The inverse of ``stack``: ``depth`` modules, each with its own parameters."""
    # Every layer has the definition of the stack and its slice of the parameters.
    graphdef, state = nnx.split(layers)
    return tuple(
        nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(depth)
    )


def gather_layer_params(params: nnx.State, dtype: DTypeLike) -> nnx.State:
    """One layer's parameters, all-gathered over FSDP once for all that read them.

    Parameters without logical axes stay as they are.
    """

    def gather_leaf(path: tuple[Any, ...], leaf: nnx.Variable) -> nnx.Variable:
        # Matrices are cast before they are gathered. In bfloat16 this halves the bytes of the
        # all-gather, and of the reduce-scatter of the gradient.
        is_matrix = path[-1] in MATMUL_PARAMS and leaf.dtype == jnp.float32
        value = leaf[...].astype(dtype) if is_matrix else leaf[...]
        return leaf.replace(all_gather_fsdp(value, leaf.get_metadata()["logical"]))

    leaves = []
    for path, leaf in nnx.to_flat_state(params):
        has_axes = "logical" in leaf.get_metadata()
        leaves.append((path, gather_leaf(path, leaf) if has_axes else leaf))
    return nnx.from_flat_state(leaves)


def scan_layers(
    layers: nnx.Module,
    call: Callable[[Any, tuple[jax.Array, Carry]], Carry],
    carry: Carry,
    depth: int,
    dtype: DTypeLike,
    remat: str = "none",
    unroll: int = 1,
) -> Carry:
    """Runs stacked ``layers`` in order, ``carry = call(layer, (index, carry))``, as one scan.

    Args:
      layers: from ``stack``.
      call: ``(layer, (index, carry)) -> carry``; ``index`` is the traced number of the layer.
      carry: activations, and the KV cache when decoding (carried, so that it is updated in place).
      depth: number of layers.
      dtype: dtype in which the layers compute.
      remat: one of ``REMAT_POLICIES``.
      unroll: layers per iteration of the loop; more of them gives the compiler more to overlap, and
        more to compile.

    Raises:
      UserError: an unknown remat policy.
    """
    if remat not in REMAT_POLICIES:
        raise UserError(
            f"config.model.remat must be one of {', '.join(REMAT_POLICIES)}; got {remat!r}"
        )
    graphdef, stacked_params = nnx.split(layers)

    def body(carry: Carry, index_and_params: tuple[jax.Array, Any]) -> tuple[Carry, None]:
        index, params = index_and_params
        # Gathered once per layer and pass, however many products read a parameter; and inside the
        # loop, so that a device does not hold all layers complete.
        layer = nnx.merge(graphdef, gather_layer_params(params, dtype))
        return call(layer, (index, carry)), None

    if remat != "none":
        # Inside a scan the compiler cannot merge the recomputed operations with the original ones,
        # so JAX's barrier against it is not needed.
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=False)
    # An ``unroll`` beyond the depth unrolls all layers, and no loop is left.
    xs = (jnp.arange(depth), stacked_params)
    return jax.lax.scan(body, carry, xs, unroll=min(unroll, depth))[0]
