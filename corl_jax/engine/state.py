"""All that training remembers, and how a fresh one is made.

In: trainable and frozen parameters that are already placed. Out: a ``TrainState``, or its abstract twin for restoring.
"""

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
    """The whole of a checkpoint; only the data position lies beside it.

    Attributes:
      step: int32 ``[]``, updates applied so far. A step of the loop may hold several updates.
      trainable: parameters that the optimiser moves.
      frozen: parameters that stay; disjoint paths.
      opt_state: the optimiser's moments, shaped and placed like ``trainable``.
      algo: the algorithm's own state (a KL coefficient, codebook usage), any pytree of arrays.
      previous: ``trainable`` as it was before the last update, for a sampler that is one behind; else empty.
      reference: one that follows ``trainable``, or None.
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


def merge(trainable: Params, frozen: Params) -> Params:
    """Both dictionaries as one, in sorted order of paths.

    Raises:
      ValueError: a path lies in both.
    """
    if both := sorted(trainable.keys() & frozen.keys()):
        raise ValueError(f"parameters {both} are both trainable and frozen")
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
    """A state at step 0. Moments are placed like their parameters, everything else is replicated on the same mesh.

    Args:
      trainable: placed parameters; the first update donates them, so keep no other use for them.
      frozen: placed parameters, disjoint from ``trainable``; never donated, so others may share them.
      optimizer: from ``optim.make_optimizer``.
      algo: pytree of arrays or numbers; numbers become arrays.
      keep_previous: whether updates keep the parameters that they moved.
      reference: over copies of ``trainable``, where one is to follow it.
    """
    merge(trainable, frozen)
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
    whole = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
    return jax.tree.map(lambda leaf: _commit(leaf, whole), state)


def abstract(state: TrainState) -> TrainState:
    """Shapes, dtypes and placement of ``state`` without its numbers: what a restore must match."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def _commit(leaf: jax.Array, whole: NamedSharding | None) -> jax.Array:
    """Ties ``leaf`` to where it lies; without a mesh of its own it is replicated as ``whole`` says."""
    stays = whole is None or isinstance(leaf.sharding, NamedSharding)
    return jax.device_put(leaf, leaf.sharding if stays else whole)
