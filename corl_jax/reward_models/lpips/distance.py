"""How different a drawn picture looks from the real one (LPIPS). In: pairs of pictures of any size; out: distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.data.images import resized
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches

SIDE = 224
"""Pictures are compared at this size, as CoRL's cycle reward does."""


class Lpips:
    """Distances of pairs of pictures, compared at ``SIDE`` square whatever their size."""

    def __init__(self, net: LoadedModel, sharder: Sharder):
        """``net`` is opened by ``base.load_reward_model(weights.LPIPS, ...)`` on the mesh of ``sharder``."""
        self._params, self._sharder = net.params, sharder
        self._run = difference(net)

    def distance(
        self, pictures: UInt8[np.ndarray, "N H W 3"], reals: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The distance of each picture from the real one of its row.

        Args:
          pictures: ``N`` drawn pictures.
          reals: ``N`` uint8 pictures ``[h, w, 3]``, each of its own size.

        Returns:
          float32 ``[N]``, never negative.

        Raises:
          ValueError: not as many real pictures as drawn ones.
        """
        if len(pictures) != len(reals):
            raise ValueError(
                f"{len(pictures)} pictures and {len(reals)} real ones; expected one for each"
            )
        if not len(reals):
            return np.zeros(0, np.float32)
        how = ((SIDE, SIDE), Image.Resampling.BILINEAR)
        columns = [
            np.stack([resized(picture, *how) for picture in side]) for side in (pictures, reals)
        ]
        return map_in_batches(
            self._sharder, lambda *batch: self._run(self._params, *batch), columns
        )


def difference(net: LoadedModel) -> Any:
    """The program: from parameters and two uint8 ``[N, SIDE, SIDE, 3]`` to distances."""

    @jax.jit
    def run(params: Params, pictures: jax.Array, reals: jax.Array) -> jax.Array:
        model = bind(net.graphdef, params)
        return model(pictures.astype(jnp.float32) / 255, reals.astype(jnp.float32) / 255)

    return run
