"""The train state: all that a run remembers from update to update."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from corl_jax.core.types import Params, pytree
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.reference_policy import ReferencePolicy


@pytree()
class TrainState:
    """What a checkpoint holds, beside the position in the data.

    Names of these fields are part of the checkpoint.

    Attributes:
      step: int32 ``[]``, updates applied so far. A step of the loop may hold several updates.
      trainable: parameters that the optimizer moves.
      frozen: parameters that stay as they are; other paths than ``trainable``.
      opt_state: moments of the optimizer, with shapes and shardings of ``trainable``.
      algo: state of the algorithm (KL coefficients, moments of rewards), any pytree of arrays.
      previous: ``trainable`` before the last update, for a sampler that is one update behind; else
        empty.
      reference: a reference policy that follows ``trainable``, or None.
    """

    step: Any
    trainable: Params
    frozen: Params
    opt_state: Any
    algo: Any
    previous: Params = dataclasses.field(default_factory=dict)
    reference: ReferencePolicy | None = None

    @property
    def params(self) -> Params:
        """Trainable and frozen parameters as one flat dictionary."""
        return merge(self.trainable, self.frozen)

    def with_frozen(self, frozen: Params) -> TrainState:
        """The same state with other frozen parameters; ``{}`` for the part that updates donate."""
        return dataclasses.replace(self, frozen=frozen)


def merge(trainable: Params, frozen: Params) -> Params:
    """Both dictionaries as one, sorted by path.

    Raises:
      ValueError: a path is in both.
    """
    if shared := sorted(trainable.keys() & frozen.keys()):
        raise ValueError(f"parameters {shared} are both trainable and frozen")
    return dict(sorted({**trainable, **frozen}.items()))


def create_state(
    trainable: Params,
    frozen: Params,
    optimizer: Optimizer,
    algo: Any = (),
    *,
    keep_previous: bool = False,
    reference: ReferencePolicy | None = None,
) -> TrainState:
    """A train state at step 0.

    Moments have the shardings of their parameters; everything else is replicated on their mesh.

    Args:
      trainable: on the mesh. The first update donates them, so do not use them elsewhere.
      frozen: on the mesh, of other paths. Never donated, so they may be shared.
      optimizer: from ``optim.make_optimizer``.
      algo: pytree of arrays or numbers; numbers become arrays.
      keep_previous: whether updates keep the parameters that they replace.
      reference: over copies of ``trainable``, where one is to follow it.
    """
    merge(trainable, frozen)  # raises where a path is in both
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        algo=jax.tree.map(jnp.asarray, algo),
        previous=jax.tree.map(jnp.copy, trainable) if keep_previous else {},
        reference=reference,
    )
    meshes = {
        leaf.sharding.mesh
        for leaf in trainable.values()
        if isinstance(leaf.sharding, NamedSharding)
    }
    replicated = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
    return jax.tree.map(lambda leaf: _commit(leaf, replicated), state)


def abstract(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of ``state``: what a restored state must have."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def named_arrays(state: TrainState) -> dict[str, Any]:
    """All arrays of ``state`` by name, such as ``trainable head/kernel``: the names of Orbax."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        " ".join(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
        for path, leaf in leaves
    }


def _commit(leaf: jax.Array, replicated: NamedSharding | None) -> jax.Array:
    """``leaf`` committed to its devices; a leaf that is on no mesh is replicated over the mesh."""
    stays = replicated is None or isinstance(leaf.sharding, NamedSharding)
    return jax.device_put(leaf, leaf.sharding if stays else replicated)
