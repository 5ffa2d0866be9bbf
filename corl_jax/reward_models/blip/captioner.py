"""Captions of pictures by a reward model. In: uint8 pictures; out: one line of text each.

The captioner is BLIP (``model.py``), decoding is greedy, and everything is computed in float32, as in the
published rewards (CoRL Eq. 3: the caption of a picture against its prompt).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.data.images import resized
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.blip.tokenizer import load_words

LENGTH = 50
"""Tokens of a caption at most, as in the published rewards."""


class Captioner:
    """A captioner over placed parameters; one program per caption length."""

    def __init__(self, net: LoadedModel, sharder: Sharder):
        """Reads the tokenizer.

        Args:
          net: opened as ``reward_models.blip.weights.CAPTIONER``.
          sharder: where the rows are spread.

        Raises:
          UserError: the folder has no tokenizer, or another model's.
        """
        cfg = net.cfg.text
        self._net, self._sharder = net, sharder
        self._words = load_words(net.folder, cfg.vocab_size, cfg.sep_id)
        self._program = captioning(net)

    def captions(self, pictures: np.ndarray, max_new_tokens: int = LENGTH) -> list[str]:
        """A caption for every picture, special tokens left out.

        Args:
          pictures: uint8 ``[N, H, W, 3]``, of any size; on several processes each brings its own, equally many.
          max_new_tokens: length at most, in tokens.

        Raises:
          UserError: more tokens than the model has positions.
        """
        rows = self.tokens(pictures, max_new_tokens)
        return [self._words.decode(row.tolist(), skip_special_tokens=True) for row in rows]

    def tokens(self, pictures: np.ndarray, max_new_tokens: int = LENGTH) -> np.ndarray:
        """The ids of those captions, int32 ``[N, max_new_tokens]``: the end id, then padding, where one ends early."""
        cfg = self._net.cfg
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ValueError(
                f"expected uint8 pictures [N, H, W, 3], not {pictures.dtype} {pictures.shape}"
            )
        if not 1 <= max_new_tokens <= cfg.text.max_length:
            raise UserError(
                f"captions of {max_new_tokens} tokens; this captioner writes 1 to {cfg.text.max_length}, choose one"
            )
        if not len(pictures):
            return np.zeros((0, max_new_tokens), np.int32)
        side = (
            cfg.vision.image_size
        )  # both sides bicubic with Pillow, shape not kept (``BlipImageProcessor``)
        squares = np.stack([resized(picture, (side, side)) for picture in pictures])
        return map_in_batches(
            self._sharder,
            lambda rows: self._program(self._net.params, rows, max_new_tokens),
            [squares],
        )


def captioning(net: LoadedModel) -> Any:
    """The program: from parameters, uint8 pictures of the captioner's own size and a static length to token ids."""

    def run(params: Params, pictures: jax.Array, length: int) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return bind(net.graphdef, params).greedy(pictures, length)

    return jax.jit(run, static_argnums=2)
