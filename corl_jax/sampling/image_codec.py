"""The image tokenizer used alone: pictures to codes and back. In: pictures or codes; out: codes or uint8 pictures."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import set_up_jax
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.images import preprocess
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.image_tokenizer import ImageTokenizer
from corl_jax.porting.policy_source import open_source
from corl_jax.sampling.batching import batch_rows, batch_size
from corl_jax.sampling.policy import Picture, as_picture

PART = "image_tokenizer/"


@dataclasses.dataclass(frozen=True)
class ImageCodec:
    """An image tokenizer on one device, in float32.

    Attributes:
      cfg: sizes of the model that it belongs to.
      params: its parameters by path.
      rows: pictures per compiled call, at most.
    """

    cfg: JanusConfig
    params: Params
    rows: int = 8

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageCodec:
        """Opens the image tokenizer of what ``Policy.load`` opens, and of a work directory that trained it alone.

        Raises:
          UserError: nothing of the kind is there, or it is damaged.
        """
        set_up_jax()
        source = open_source(os.fspath(path))
        place = SingleDeviceSharding(jax.devices()[0])
        shapes = flatten_abstract(_abstract(source.cfg))
        wanted = {
            PART + name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
            for name, leaf in shapes.items()
        }
        params = source.params(wanted)
        return cls(source.cfg, {name.removeprefix(PART): leaf for name, leaf in params.items()})

    def encode(self, images: Sequence[Picture]) -> np.ndarray:
        """Codes of pictures, which are brought to the model's size as for understanding.

        Args:
          images: ``N`` uint8 ``[H, W, 3]`` arrays, PIL images or files.

        Returns:
          int32 ``[N, S]``, row by row of the picture.

        Raises:
          UserError: no picture, or one that is none.
        """
        if not len(images):
            raise UserError("there is no picture to encode; give at least one")
        pictures = np.stack(
            [preprocess(as_picture(image), self.cfg.vision.image_size) for image in images]
        )
        return self._mapped(_encode, pictures)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Pictures of codes.

        Args:
          codes: int ``[N, S]``.

        Returns:
          uint8 ``[N, H, W, 3]``.

        Raises:
          UserError: another shape, or a code that the codebook does not have.
        """
        codes = np.asarray(codes)
        size, tokens = self.cfg.image_tokenizer.codebook_size, self.cfg.image_tokens
        if (
            codes.ndim != 2
            or codes.shape[1] != tokens
            or not len(codes)
            or not np.issubdtype(codes.dtype, np.integer)
        ):
            raise UserError(
                f"codes are {codes.dtype} {list(codes.shape)}; expected whole numbers [pictures, {tokens}]"
            )
        if codes.min() < 0 or codes.max() >= size:
            raise UserError(
                f"codes run from {codes.min()} to {codes.max()}; expected 0 to {size - 1}"
            )
        return self._mapped(_decode, codes.astype(np.int32))

    def _mapped(self, program: Any, rows: np.ndarray) -> np.ndarray:
        """``program`` over ``rows`` in batches of one shape."""
        parts = []
        for chosen, real in batch_rows(len(rows), batch_size(len(rows), self.rows)):
            parts.append(np.asarray(program(self.cfg, self.params, rows[chosen]))[:real])
        return np.concatenate(parts)


def _abstract(cfg: JanusConfig) -> ImageTokenizer:
    return nnx.eval_shape(lambda: ImageTokenizer(cfg.image_tokenizer, rngs=nnx.Rngs(0)))


@functools.partial(jax.jit, static_argnums=0)
def _encode(cfg: JanusConfig, params: Params, pictures: Any) -> Any:
    return bind(nnx.split(_abstract(cfg))[0], params).encode(pictures).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _decode(cfg: JanusConfig, params: Params, codes: Any) -> Any:
    return bind(nnx.split(_abstract(cfg))[0], params).sample_images(codes)
