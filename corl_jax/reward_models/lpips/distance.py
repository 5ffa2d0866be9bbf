"""LPIPS distances between generated images and real ones, on host arrays.

In: pairs of uint8 images of any size. Out: one float32 distance per pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.data.images import resize_image
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches

IMAGE_SIZE = 224
"""Images are compared as squares of this many pixels a side, as CoRL's cycle reward does."""


class LpipsDistance:
    """LPIPS of pairs of images, both resized to ``IMAGE_SIZE`` square whatever their size."""

    def __init__(self, model: LoadedModel, sharder: Sharder):
        """Compiles nothing yet.

        Args:
          model: loaded as ``reward_models.lpips.weights.LPIPS``.
          sharder: the mesh that the model is on.
        """
        self._params = model.params
        self._sharder = sharder
        self._program = make_distance_program(model)

    def distance(
        self, images: UInt8[np.ndarray, "N H W 3"], real_images: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The distance of each image from the real image of its row.

        Args:
          images: ``N`` generated images.
          real_images: ``N`` uint8 images ``[h, w, 3]``, which may differ in size.

        Returns:
          float32 ``[N]``, never negative.

        Raises:
          ValueError: the numbers of images and of real images differ.
        """
        if len(images) != len(real_images):
            raise ValueError(
                f"there must be one real image for each image; got {len(images)} images and "
                f"{len(real_images)} real images"
            )
        if not len(real_images):
            return np.zeros(0, np.float32)

        # On the host, with Pillow; one program of fixed shape then compares images of any size.
        columns = [_resize_all(images), _resize_all(real_images)]
        return map_in_batches(
            self._sharder, lambda *batch: self._program(self._params, *batch), columns
        )


def _resize_all(images: Sequence[np.ndarray] | np.ndarray) -> UInt8[np.ndarray, "N S S 3"]:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.stack([resize_image(image, size, Image.Resampling.BILINEAR) for image in images])


def make_distance_program(model: LoadedModel) -> jax.stages.Wrapped:
    """The jitted program ``(params, images, real_images) -> distances [N]``.

    Both images are uint8 ``[N, IMAGE_SIZE, IMAGE_SIZE, 3]``.
    """

    @jax.jit
    def run(params: Params, images: jax.Array, real_images: jax.Array) -> jax.Array:
        # uint8 travels to the device, a quarter of float32.
        lpips = bind(model.graphdef, params)
        return lpips(images.astype(jnp.float32) / 255, real_images.astype(jnp.float32) / 255)

    return run
