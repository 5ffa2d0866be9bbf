"""Janus: two inputs (text, images), one backbone, two outputs (text head, image head).

Compatible with ``JanusForConditionalGeneration`` of transformers; sizes are from the Janus-Pro
report. ``Janus`` implements ``models.interface.UnifiedModel``. The patterns of parameter paths that
other packages need are constants here.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corl_jax.core.per_device import shard_embedding_lookup
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.image_tokenizer import PARAM_PREFIX, ImageTokenizer
from corl_jax.models.janus.vision_tower import VisionTower
from corl_jax.models.language_model import LanguageModel
from corl_jax.models.layers import Mlp2
from corl_jax.models.lora import Lora, add_adapters

JANUS_MATMUL_PATTERNS = ("*/kernel", "*embed/embedding")
"""Parameters that the model casts to its compute dtype at each use, so that casting them before the
program starts changes no number."""

JANUS_FLOAT32_PATTERNS = (f"{PARAM_PREFIX}*",)
"""Parameters of what computes in float32 whatever the compute dtype: the image tokenizer."""

JANUS_LAYER_PATTERNS = ("*/layers/*",)
"""Parameters that are stacked over layers, with a leading layer axis."""

JANUS_EMBEDDING_PATTERNS = ("language_model/embed/*",)
"""The text embedding table, of which only the rows of the tokens are read."""

JANUS_IMAGE_DECODE_PATTERNS = (
    "language_model/layers/*",
    "language_model/norm/*",
    "gen_head/*",
    "gen_aligner/*",
)
"""Parameters that decoding an image token reads completely."""

JANUS_TEXT_HEAD = "language_model/lm_head/kernel"
"""Path of the text head's kernel."""


class Janus(nnx.Module):
    """The unified model.

    Args:
      cfg: sizes.
      dtype: compute dtype; the image tokenizer stays in float32.
      remat, unroll: see ``layers.scan_layers``.
      attention: a name in ``models.attention_kernels``.
      separate_decoding: see ``language_model.LanguageModel``.
    """

    def __init__(
        self,
        cfg: JanusConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        unroll: int = 1,
        attention: str = "einsum",
        separate_decoding: bool = False,
        rngs: nnx.Rngs,
    ):
        # Vision tower and language model run their layers with the same options.
        tower_options: dict[str, Any] = {
            "dtype": dtype,
            "remat": remat,
            "unroll": unroll,
            "attention": attention,
        }
        width, tokenizer = cfg.decoder.width, cfg.image_tokenizer
        self.cfg = cfg

        # Images to understand.
        self.vision_model = VisionTower(cfg.vision, **tower_options, rngs=rngs)
        self.aligner = Mlp2(
            cfg.vision.width, width, width, ("mlp", "embed"), dtype=dtype, rngs=rngs
        )

        # Text in and out, and the backbone.
        self.language_model = LanguageModel(
            cfg.decoder, **tower_options, separate_decoding=separate_decoding, rngs=rngs
        )

        # Generated images. Their input embeddings have their own table, not the codebook.
        self.gen_embed = nnx.Embed(
            tokenizer.codebook_size,
            tokenizer.code_dim,
            dtype=dtype,
            rngs=rngs,
            embedding_init=nnx.initializers.normal(0.3),
            embedding_metadata={"logical": ("codes", "code_size")},
        )
        self.gen_aligner = Mlp2(
            tokenizer.code_dim, width, width, ("mlp", "embed"), dtype=dtype, rngs=rngs
        )
        self.gen_head = Mlp2(
            width,
            cfg.gen_head_dim,
            tokenizer.codebook_size,
            ("embed", "codes"),
            dtype=dtype,
            rngs=rngs,
            wide=True,
        )

        # Pixels of generated images.
        self.image_tokenizer = ImageTokenizer(tokenizer, rngs=rngs)

    @property
    def backbone(self) -> LanguageModel:
        """See ``models.interface.UnifiedModel``."""
        return self.language_model

    @property
    def text_head(self) -> nnx.Module:
        """See ``models.interface.UnifiedModel``."""
        return self.language_model.lm_head

    @property
    def image_head(self) -> nnx.Module:
        """See ``models.interface.UnifiedModel``."""
        return self.gen_head

    def embed_text(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of text tokens."""
        # Sharded so that devices do not sum a gradient of the complete table.
        return shard_embedding_lookup(self.language_model.embed(tokens), "embed")

    def embed_image_tokens(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of image tokens that the model generated."""
        return self.gen_aligner(self.gen_embed(tokens))

    def embed_images(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Input embeddings of images to understand, in [-1, 1]."""
        return self.aligner(self.vision_model(images))

    def embed_prompt(
        self,
        tokens: Int[Array, "B P"],
        images: Float[Array, "B H W 3"] | Float[Array, "B M H W 3"] | None,
        image_id: int,
    ) -> Float[Array, "B P D"]:
        """Input embeddings of prompts.

        Args:
          tokens: with placeholders ``image_id`` where an image is read.
          images: one per prompt, or at most ``M``, in [-1, 1]; None for prompts without images.
          image_id: placeholder of the tokens of an image to understand.
        """
        text_BPD = self.embed_text(tokens)
        if images is None:
            return text_BPD

        # The n-th placeholder of a row is replaced by the n-th state of the row's images, which
        # follow each other.
        states = self.embed_images(images.reshape(-1, *images.shape[-3:]))
        images_BSD = states.reshape(len(tokens), -1, states.shape[-1])
        is_image_BP = tokens == image_id
        state_index_BP = jnp.clip(jnp.cumsum(is_image_BP, 1) - 1, 0, images_BSD.shape[1] - 1)
        return jnp.where(
            is_image_BP[..., None],
            jnp.take_along_axis(images_BSD, state_index_BP[..., None], 1),
            text_BPD,
        )

    def text_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """``text_head`` in float32."""
        return self.language_model.logits(states)

    def image_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... I"]:
        """``image_head`` in float32."""
        return self.gen_head(states)


def abstract(cfg: JanusConfig, lora: Lora | None = None, **options: Any) -> Janus:
    """The model with shapes instead of numbers (``nnx.eval_shape``), at any size without cost.

    Args:
      cfg: sizes.
      lora: adapters, see ``models.lora``; None or rank 0 for none.
      **options: keyword arguments of ``Janus``.
    """

    return nnx.merge(*_abstract_parts(cfg, lora, tuple(sorted(options.items()))))


@functools.cache
def _abstract_parts(
    cfg: JanusConfig, lora: Lora | None, options: tuple[tuple[str, Any], ...]
) -> tuple[nnx.GraphDef[Janus], nnx.State]:
    """The abstract model, split. Tracing the initializers takes a second, so it is done once."""

    # Adapters are added under eval_shape too, so nothing is ever allocated.
    def make() -> Janus:
        model = Janus(cfg, **dict(options), rngs=nnx.Rngs(0))
        return add_adapters(model, lora) if lora is not None and lora.rank else model

    return nnx.split(nnx.eval_shape(make))


def logical_axes(model: nnx.Module) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of every parameter by path; stacked parameters gain a leading ``layers``."""
    _, state = nnx.split(model)
    axes = {}
    for path, leaf in nnx.to_flat_state(state):
        names = tuple(leaf.get_metadata()["logical"])
        # A module knows the axes of one layer; a stack of them has one axis more in front.
        axes["/".join(map(str, path))] = ("layers",) * (leaf.ndim - len(names)) + names
    return axes


def initialise(cfg: JanusConfig, key: jax.Array) -> Janus:
    """A model with random parameters."""
    return Janus(cfg, rngs=nnx.Rngs(key))
