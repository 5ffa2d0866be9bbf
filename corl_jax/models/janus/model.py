"""The unified model: two ways in (tokens, pictures), one trunk, two ways out (text head, image head).

Compatible with ``JanusForConditionalGeneration``; facts in the Janus-Pro report.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from corl_jax.core.per_device import shard_embedding_lookup
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.image_tokenizer import ImageTokenizer
from corl_jax.models.janus.vision_tower import VisionTower
from corl_jax.models.language_model import LanguageModel
from corl_jax.models.layers import Mlp2
from corl_jax.models.lora import Lora, adapt


class Janus(nnx.Module):
    """Sizes in ``cfg``; compute in ``dtype`` (the image tokenizer stays in float32); ``remat`` and ``unroll`` as in
    ``layers.scan_layers``; ``attention`` is a name in ``models.attention_kernels``."""

    def __init__(
        self,
        cfg: JanusConfig,
        *,
        dtype: Any = jnp.float32,
        remat: str = "none",
        unroll: int = 1,
        attention: str = "einsum",
        rngs: nnx.Rngs,
    ):
        how: dict[str, Any] = {
            "dtype": dtype,
            "remat": remat,
            "unroll": unroll,
            "attention": attention,
        }
        width, codes = cfg.decoder.width, cfg.image_tokenizer
        self.cfg = cfg
        self.vision_model = VisionTower(cfg.vision, **how, rngs=rngs)
        self.aligner = Mlp2(
            cfg.vision.width, width, width, ("mlp", "embed"), dtype=dtype, rngs=rngs
        )
        self.language_model = LanguageModel(cfg.decoder, **how, rngs=rngs)
        self.gen_embed = nnx.Embed(
            codes.codebook_size,
            codes.code_dim,
            dtype=dtype,
            rngs=rngs,
            embedding_init=nnx.initializers.normal(0.3),
            embedding_metadata={"logical": ("codes", "code_size")},
        )
        self.gen_aligner = Mlp2(
            codes.code_dim, width, width, ("mlp", "embed"), dtype=dtype, rngs=rngs
        )
        self.gen_head = Mlp2(
            width, cfg.gen_head_dim, codes.codebook_size, ("embed", "codes"), dtype=dtype, rngs=rngs
        )
        self.image_tokenizer = ImageTokenizer(codes, rngs=rngs)

    def embed_text(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of text tokens."""
        return shard_embedding_lookup(self.language_model.embed(tokens), "embed")

    def embed_image_tokens(self, codes: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of image tokens that the model itself wrote."""
        return self.gen_aligner(self.gen_embed(codes))

    def embed_images(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Input embeddings of pictures to understand, in [-1, 1]."""
        return self.aligner(self.vision_model(images))

    def embed_prompt(
        self, tokens: Int[Array, "N L"], images: Float[Array, "N H W 3"] | None, image_id: int
    ) -> Float[Array, "N L D"]:
        """Input embeddings of prompts; placeholders (``image_id``) take the states of the row's picture, in order."""
        x = self.embed_text(tokens)
        if images is None:
            return x
        pictures = self.embed_images(images)
        here = tokens == image_id
        order = jnp.clip(jnp.cumsum(here, 1) - 1, 0, pictures.shape[1] - 1)
        return jnp.where(here[..., None], jnp.take_along_axis(pictures, order[..., None], 1), x)

    def text_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Text head, float32."""
        return self.language_model.logits(states)

    def image_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... I"]:
        """Image head, float32."""
        return self.gen_head(states).astype(jnp.float32)


def abstract(cfg: JanusConfig, lora: Lora | None = None, **how: Any) -> Janus:
    """The model with shapes instead of numbers, at any size, for free; ``how`` as ``Janus`` takes it.

    With ``lora`` of a rank above 0 it has adapters, see ``models.lora``.
    """

    def make() -> Janus:
        model = Janus(cfg, **how, rngs=nnx.Rngs(0))
        return adapt(model, lora) if lora is not None and lora.rank else model

    return nnx.eval_shape(make)


def logical_axes(model: nnx.Module) -> dict[str, tuple[str | None, ...]]:
    """Logical axis names of every parameter by path; stacked parameters gain a leading ``layers``."""
    _, state = nnx.split(model)
    axes = {}
    for path, leaf in nnx.to_flat_state(state):
        names = tuple(leaf.get_metadata()["logical"])
        axes["/".join(map(str, path))] = ("layers",) * (leaf.ndim - len(names)) + names
    return axes


def initialise(cfg: JanusConfig, key: jax.Array) -> Any:
    """A freshly initialised model."""
    return Janus(cfg, rngs=nnx.Rngs(key))
