"""What sampling and the stages need of a unified model, whatever its family.

Janus (``models/janus/model.py``) is one implementation. Another autoregressive family, which writes
image tokens one after another, needs these members and a ``data.prompts.PromptTemplate``; then it
is sampled, trained and measured like Janus. A family that decodes images otherwise (by masks or by
a flow) would also need its own pair of sampler and log-probs in ``corl_jax/sampling/``.

Members are Flax NNX modules or methods of one, so that ``core.trees.bind`` makes a model of flat
parameters. Letters of shapes are those of ``core/types.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from corl_jax.models.kv_cache import KVCache


class UnifiedSizes(Protocol):
    """Sizes that shape the programs of sampling."""

    @property
    def text_vocab_size(self) -> int:
        """``V``, classes of the text head."""
        ...

    @property
    def image_vocab_size(self) -> int:
        """``I``, classes of the image head: the size of the codebook."""
        ...

    @property
    def image_tokens(self) -> int:
        """``S``, tokens of an image, generated and understood alike."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels along a side of an image."""
        ...


class Backbone(Protocol):
    """The causal trunk that both tasks share: input embeddings to states of the last layer.

    Attributes:
      cache_dtype: of keys and values in ``empty_cache``; int8 for a quantized sampler.
    """

    cache_dtype: DTypeLike

    def __call__(
        self, x_NLD: Float[Array, "N L D"], positions: Int[Array, "N L"], mask: Bool[Array, "N L L"]
    ) -> tuple[Float[Array, "N L D"], Any]:
        """States of whole sequences, and None; teacher forcing without a cache."""
        ...

    def with_shared_prefix(
        self,
        prompts: tuple[Float[Array, "B P D"], Int[Array, "B P"], Bool[Array, "B P P"]],
        completions: tuple[Float[Array, "N T D"], Int[Array, "N T"], Bool[Array, "N T PT"]],
    ) -> tuple[Float[Array, "B P D"], Float[Array, "N T D"]]:
        """States of prompts, and of the ``N / B`` completions behind each, reading it once.

        Each argument is input embeddings, positions and mask.
        """
        ...

    def separate_layers(self) -> tuple[Any, ...]:
        """The layers as modules of their own where a decoding loop runs faster so, else ()."""
        ...

    @property
    def grows_cache(self) -> bool:
        """Whether a decoding loop should have a cache no longer than what it reads."""
        ...

    def empty_cache(self, rows: int, length: int) -> KVCache:
        """A cache for ``rows`` sequences of up to ``length`` positions."""
        ...

    def cached(
        self,
        x_NLD: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        mask: Bool[Array, "N L S"],
        cache: KVCache,
        index: Any,
        layers: tuple[Any, ...],
    ) -> tuple[Float[Array, "N L D"], KVCache]:
        """States, and the cache with keys and values of ``x`` from position ``index`` on."""
        ...


class ImageTokenizerModule(Protocol):
    """Images to image tokens and back."""

    def encode(self, images: Float[Array, "N H W 3"]) -> Int[Array, "N S"]:
        """Image tokens of images in [-1, 1]."""
        ...

    def code_vectors(self, tokens: Int[Array, "..."]) -> Float[Array, "... Z"]:
        """Vectors of image tokens in the codebook."""
        ...

    def decode_pixels(self, tokens: Int[Array, "N S"]) -> UInt8[Array, "N H W 3"]:
        """Pixels of image tokens."""
        ...


class UnifiedModel(Protocol):
    """One model that reads text and images and writes both."""

    @property
    def cfg(self) -> UnifiedSizes:
        """Its sizes."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The trunk."""
        ...

    @property
    def text_head(self) -> nnx.Module:
        """States ``[..., D]`` to logits of text tokens ``[..., V]``; a module of its own."""
        ...

    @property
    def image_head(self) -> nnx.Module:
        """States ``[..., D]`` to logits of image tokens ``[..., I]``; a module of its own."""
        ...

    @property
    def image_tokenizer(self) -> ImageTokenizerModule:
        """The VQ tokenizer of generated images; a module of its own."""
        ...

    def embed_prompt(
        self,
        tokens: Int[Array, "B P"],
        images: Float[Array, "B H W 3"] | Float[Array, "B M H W 3"] | None,
        image_id: int,
    ) -> Float[Array, "B P D"]:
        """Input embeddings of prompts; ``image_id`` marks the places of images to understand."""
        ...

    def embed_text(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of text tokens."""
        ...

    def embed_image_tokens(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L D"]:
        """Input embeddings of generated image tokens."""
        ...

    def text_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """``text_head`` in float32."""
        ...

    def image_logits(self, states: Float[Array, "... D"]) -> Float[Array, "... I"]:
        """``image_head`` in float32."""
        ...
