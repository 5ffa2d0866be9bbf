"""How well images fit texts according to CLIP, on host arrays.

In: uint8 images and texts. Out: one cosine per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.clip.tokenizer import ClipTokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the colours of CLIP's training images in [0, 1]."""


def resize_and_crop(
    image: UInt8[np.ndarray, "H W 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square of an image whose shorter side is resized to ``size``.

    Compatible with ``CLIPImageProcessor`` of transformers: bicubic, with Pillow.
    """
    # The longer side is rounded down, as in transformers.
    picture = Image.fromarray(image)
    shorter = min(picture.size)
    width, height = (
        size if side == shorter else int(size * side / shorter) for side in picture.size
    )
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)

    # The middle.
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


class ClipSimilarity:
    """Cosines of images and texts in CLIP's space."""

    def __init__(self, model: LoadedModel, sharder: Sharder):
        """Reads the tokenizer; nothing is compiled yet.

        Args:
          model: loaded as ``reward_models.clip.weights.CLIP``.
          sharder: the mesh that the model is on.

        Raises:
          UserError: the folder's tokenizer is missing, damaged, or of another model.
        """
        self._params = model.params
        self._sharder = sharder
        self._image_size = model.cfg.image_size
        self._tokenizer = ClipTokenizer.from_model(model)
        self._program = make_cosine_program(model)

    def cosine(self, images: UInt8[np.ndarray, "N H W 3"], texts: Sequence[str]) -> np.ndarray:
        """How well each image fits the text of its row.

        Args:
          images: ``N`` images.
          texts: ``N`` texts; of a long text the first 75 tokens count.

        Returns:
          float32 ``[N]`` in [-1, 1]; CoRL's CLIP reward is twice that.

        Raises:
          ValueError: the numbers of images and texts differ.
        """
        if len(images) != len(texts):
            raise ValueError(
                f"there must be one text for each image; got {len(images)} images and "
                f"{len(texts)} texts"
            )

        # No rows, no program.
        if not len(texts):
            return np.zeros(0, np.float32)

        # On the host, with Pillow; one program of fixed shape then takes images of any size.
        squares = np.stack([resize_and_crop(image, self._image_size) for image in images])
        return map_in_batches(
            self._sharder,
            lambda *batch: self._program(self._params, *batch),
            [squares, self._tokenizer(texts)],
        )


def make_cosine_program(model: LoadedModel) -> jax.stages.Wrapped:
    """The jitted program ``(params, images, ids) -> cosines [N]``.

    Images are uint8 of CLIP's own size, ids ``[N, 77]``.
    """

    @jax.jit
    def run(params: Params, images: jax.Array, ids: jax.Array) -> jax.Array:
        return bind(model.graphdef, params).cosine(normalize(images), ids)

    return run


def normalize(images: UInt8[Array, "N H W 3"]) -> Float[Array, "N H W 3"]:
    """Images as the network takes them; uint8 travels to the device, a quarter of float32."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(MEAN)) / jnp.asarray(STD)
