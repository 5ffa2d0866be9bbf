"""Captions of images by BLIP, on host arrays.

In: uint8 images. Out: one line of text each.

Decoding is greedy and everything is computed in float32, as in the published rewards (CoRL equation
3: the caption of an image against its prompt).
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Int, UInt8

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.data.images import resize_image
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.blip.tokenizer import load_caption_tokenizer

MAX_CAPTION_TOKENS = 50
"""Tokens of a caption at most, as in the published rewards."""


class Captioner:
    """Writes captions; one program is compiled per caption length."""

    def __init__(self, model: LoadedModel, sharder: Sharder):
        """Reads the tokenizer; nothing is compiled yet.

        Args:
          model: loaded as ``reward_models.blip.weights.CAPTIONER``.
          sharder: the mesh that the model is on.

        Raises:
          UserError: the folder's tokenizer is missing, damaged, or of another model.
        """
        # The tokenizer must fit the model: its size, and the id that ends a caption.
        text_cfg = model.cfg.text
        self._model = model
        self._sharder = sharder
        self._tokenizer = load_caption_tokenizer(model.folder, text_cfg.vocab_size, text_cfg.sep_id)
        self._program = make_caption_program(model)

    def captions(
        self, images: UInt8[np.ndarray, "N H W 3"], max_new_tokens: int = MAX_CAPTION_TOKENS
    ) -> list[str]:
        """The caption of every image, without special tokens.

        Args:
          images: of any size. With several processes each passes its own, equally many.
          max_new_tokens: tokens of a caption at most.

        Raises:
          UserError: ``max_new_tokens`` is more than the model has positions.
        """
        # ``sep`` and padding are special tokens, which decoding leaves out.
        rows = self.caption_tokens(images, max_new_tokens)
        return [self._tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in rows]

    def caption_tokens(
        self, images: UInt8[np.ndarray, "N H W 3"], max_new_tokens: int = MAX_CAPTION_TOKENS
    ) -> Int[np.ndarray, "N T"]:
        """The ids of those captions, int32 ``[N, max_new_tokens]``.

        A caption that ends early has the end id, then padding.
        """
        cfg = self._model.cfg
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images must be uint8 [N, H, W, 3]; got {images.dtype} {images.shape}"
            )

        if not 1 <= max_new_tokens <= cfg.text.max_length:
            raise UserError(
                f"captions of this captioner must be 1 to {cfg.text.max_length} tokens long; got "
                f"{max_new_tokens}. Choose a length in that range"
            )

        # No rows, no program.
        if not len(images):
            return np.zeros((0, max_new_tokens), np.int32)

        # As ``BlipImageProcessor``: both sides bicubic with Pillow, the aspect ratio is not kept.
        side = cfg.vision.image_size
        squares = np.stack([resize_image(image, (side, side)) for image in images])
        return map_in_batches(
            self._sharder,
            lambda batch: self._program(self._model.params, batch, max_new_tokens),
            [squares],
        )


def make_caption_program(model: LoadedModel) -> jax.stages.Wrapped:
    """The jitted program ``(params, images, length) -> token ids [N, length]``.

    Images are uint8 of the captioner's own size; ``length`` is static.
    """

    def run(params: Params, images: jax.Array, length: int) -> jax.Array:
        # The default of a TPU multiplies in bfloat16.
        with jax.default_matmul_precision("float32"):
            return bind(model.graphdef, params).greedy(images, length)

    return jax.jit(run, static_argnums=2)
