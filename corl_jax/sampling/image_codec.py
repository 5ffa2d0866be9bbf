"""The image tokenizer used alone: images to image tokens and back."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float, Int, UInt8

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import set_up_jax
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.image_files import ImageInput, load_image
from corl_jax.data.images import preprocess
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.image_tokenizer import PARAM_PREFIX, ImageTokenizer
from corl_jax.porting.policy_source import open_policy_source
from corl_jax.sampling.batching import batch_rows, batch_size


@dataclasses.dataclass(frozen=True)
class ImageCodec:
    """An image tokenizer on one device, in float32.

    Attributes:
      cfg: sizes of the model that it belongs to.
      params: its parameters by path.
      rows: most images per compiled call.
    """

    cfg: JanusConfig
    params: Params
    rows: int = 8

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageCodec:
        """Opens the image tokenizer of a policy, or of a work directory that trained it alone.

        Args:
          path: as for ``Policy.load``.

        Raises:
          UserError: there is none, or it is damaged.
        """
        set_up_jax()
        source = open_policy_source(os.fspath(path))
        sharding = SingleDeviceSharding(jax.devices()[0])
        specs = {
            PARAM_PREFIX + name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in flatten_abstract(_abstract_tokenizer(source.cfg)).items()
        }
        params = source.load_params(specs)
        return cls(
            source.cfg, {name.removeprefix(PARAM_PREFIX): leaf for name, leaf in params.items()}
        )

    @classmethod
    def of_policy(cls, cfg: JanusConfig, params: Params) -> ImageCodec:
        """The image tokenizer of a policy that is loaded already, on the first device.

        Args:
          params: of the whole policy, on devices of this process.
        """
        device = jax.local_devices()[0]
        return cls(
            cfg,
            {
                path.removeprefix(PARAM_PREFIX): jax.device_put(np.asarray(leaf), device)
                for path, leaf in params.items()
                if path.startswith(PARAM_PREFIX)
            },
        )

    def encode(self, images: Sequence[ImageInput]) -> np.ndarray:
        """Image tokens of images, which are resized and padded as for understanding.

        Args:
          images: ``N`` uint8 ``[H, W, 3]`` arrays, PIL images, files, or contents of files.

        Returns:
          int32 ``[N, S]``, row by row of the image.

        Raises:
          UserError: there is no image, or one cannot be read.
        """
        if not len(images):
            raise UserError("there must be at least one image to encode; got none")
        pixels = np.stack([preprocess(load_image(image), self.cfg.image_size) for image in images])
        return self._map(_encode, pixels)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Images of image tokens.

        Args:
          tokens: int ``[N, S]``.

        Returns:
          uint8 ``[N, H, W, 3]``.

        Raises:
          UserError: another shape, or a token that the codebook does not have.
        """
        # Nothing on the device would notice a token that the codebook does not have.
        tokens = np.asarray(tokens)
        vocab_size, length = self.cfg.image_vocab_size, self.cfg.image_tokens
        has_shape = tokens.ndim == 2 and tokens.shape[1] == length and len(tokens) > 0
        if not has_shape or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(
                f"image tokens must be whole numbers [images, {length}]; got {tokens.dtype} "
                f"{list(tokens.shape)}"
            )
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise UserError(
                f"image tokens must be from 0 to {vocab_size - 1}; got {tokens.min()} to "
                f"{tokens.max()}"
            )
        return self._map(_decode, tokens.astype(np.int32))

    def _map(self, program: Callable[..., jax.Array], rows: np.ndarray) -> np.ndarray:
        """``program`` over ``rows`` in batches of one shape."""
        # The last batch is filled up with its last row, which is dropped here.
        parts = []
        for batch, count in batch_rows(len(rows), batch_size(len(rows), self.rows)):
            parts.append(np.asarray(program(self.cfg, self.params, rows[batch]))[:count])
        return np.concatenate(parts)


@functools.cache
def _abstract_tokenizer(cfg: JanusConfig) -> ImageTokenizer:
    return nnx.eval_shape(lambda: ImageTokenizer(cfg.image_tokenizer, rngs=nnx.Rngs(0)))


@functools.partial(jax.jit, static_argnums=0)
def _encode(cfg: JanusConfig, params: Params, images: Float[Array, "N H W 3"]) -> Int[Array, "N S"]:
    tokenizer = bind(nnx.split(_abstract_tokenizer(cfg))[0], params)
    return tokenizer.encode(images).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _decode(cfg: JanusConfig, params: Params, tokens: Int[Array, "N S"]) -> UInt8[Array, "N H W 3"]:
    tokenizer = bind(nnx.split(_abstract_tokenizer(cfg))[0], params)
    return tokenizer.decode_pixels(tokens)
