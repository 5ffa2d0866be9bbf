"""How well pictures fit texts (CLIP). In: pictures and texts; out: cosines."""

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
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.clip.tokenizer import ClipTokenizer

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours of CLIP's training pictures in [0, 1]."""


def cropped(picture: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle of a picture whose shorter side becomes ``size`` (Pillow, bicubic), as ``CLIPImageProcessor`` does."""
    image = Image.fromarray(picture)
    shorter = min(image.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


class ClipSimilarity:
    """Cosines of pictures and texts in CLIP's space."""

    def __init__(self, net: LoadedModel, sharder: Sharder):
        """``net`` is opened by ``reward_models.base.load_reward_model(porting.clip.CLIP, ...)`` on the mesh of ``sharder``.

        Raises:
          UserError: the net's folder has no tokenizer, a damaged one, or that of another model.
        """
        self._params, self._sharder, self._size = net.params, sharder, net.cfg.image_size
        self._tokenizer = ClipTokenizer.of(net)
        self._run = fitting(net)

    def cosine(self, pictures: UInt8[np.ndarray, "N H W 3"], texts: Sequence[str]) -> np.ndarray:
        """How well each picture fits the text of its row.

        Args:
          pictures: ``N`` of them.
          texts: ``N``; of a long one the first 75 tokens count.

        Returns:
          float32 ``[N]`` in [-1, 1]; CoRL's CLIP reward is twice that.

        Raises:
          ValueError: not as many texts as pictures.
        """
        if len(pictures) != len(texts):
            raise ValueError(
                f"{len(pictures)} pictures and {len(texts)} texts; expected one for each"
            )
        if not len(texts):
            return np.zeros(0, np.float32)
        squares = np.stack([cropped(picture, self._size) for picture in pictures])
        return map_in_batches(
            self._sharder,
            lambda *batch: self._run(self._params, *batch),
            [squares, self._tokenizer(texts)],
        )


def fitting(net: LoadedModel) -> Any:
    """The program: from parameters, uint8 pictures of CLIP's own size and token ids ``[N, 77]`` to cosines."""

    @jax.jit
    def run(params: Params, pictures: jax.Array, ids: jax.Array) -> jax.Array:
        colours = (pictures.astype(jnp.float32) / 255 - jnp.asarray(MEAN)) / jnp.asarray(DEVIATION)
        return bind(net.graphdef, params).cosine(colours, ids)

    return run
