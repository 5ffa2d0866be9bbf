"""The compiled programs of a policy: rollouts of images and of text, and log-probs of both.

Guidance, temperature and keys are traced, so only shapes and ``LogProbOptions`` compile anew.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from corl_jax.core.microbatches import check_rows, join_rows, split_rows
from corl_jax.core.per_device import batch_axes_spec, per_device
from corl_jax.core.sharding import constrain
from corl_jax.core.trees import bind
from corl_jax.core.types import Modality, Params, Prompts, Rollout
from corl_jax.models.interface import ImageTokenizerModule, UnifiedModel, UnifiedSizes
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.decode import decode_image
from corl_jax.sampling.decode_text import decode_text
from corl_jax.sampling.log_probs import LogProbOptions, log_probs_and_entropy
from corl_jax.sampling.prompt_layout import SpecialTokenIds

PIXELS_AT_ONCE = 8 * 384 * 384
"""Pixels that a device decodes at once. A rollout compiled for a v5e took 2.3 kB for each of 32
images of 384 pixels a side, so 8 of them bound the memory of its largest phase."""


@dataclasses.dataclass(frozen=True)
class PolicyFns:
    """The programs of one model definition.

    Parameters are arguments, so that the policy and its reference share compiled programs.

    Attributes:
      graphdef: from ``core.trees.flatten``; binds to a ``models.interface.UnifiedModel``.
      cfg: sizes.
      ids: special token ids.
    """

    graphdef: Any
    cfg: UnifiedSizes
    ids: SpecialTokenIds

    def sampling_params(
        self, modality: str, *, guidance: float = 1.0, temperature: float = 1.0
    ) -> SamplingParams:
        """The distribution to sample from: scalars that are traced, and for text the banned ids."""
        banned = self.ids.banned_mask(self.cfg.text_vocab_size) if modality == "text" else None
        return SamplingParams(jnp.float32(guidance), jnp.float32(temperature), 1.0, 0, banned)

    def sample_images(
        self,
        params: Params,
        prompts: Prompts,
        keys: Key[Array, "B G"],
        sampling: SamplingParams,
        guided: bool = True,
    ) -> Rollout:
        """``G`` images per prompt, decoded to pixels in the same program.

        Args:
          params: of the whole model.
          prompts: ``B`` prompts that end in the begin-of-image token.
          keys: one per sample.
          sampling: from ``self.sampling_params("image", ...)``.
          guided: False skips the unconditional prompts, which guidance 1 does not need.
        """
        tokens, mask, log_probs, pixels = _sample_images(
            self, params, prompts, keys, sampling, guided
        )
        return Rollout(tokens, mask, log_probs, pixels, "image")

    def sample_image_tokens(
        self,
        params: Params,
        prompts: Prompts,
        keys: Key[Array, "B G"],
        sampling: SamplingParams,
        length: int,
        guided: bool = True,
    ) -> Int[Array, "B G S"]:
        """The first ``length`` image tokens, not decoded; arguments as in ``sample_images``."""
        return _sample_image_tokens(self, params, prompts, keys, sampling, length, guided)

    def sample_text(
        self,
        params: Params,
        prompts: Prompts,
        keys: Key[Array, "B G"],
        sampling: SamplingParams,
        length: int,
    ) -> Rollout:
        """``G`` texts of at most ``length`` tokens; arguments as in ``sample_images``."""
        tokens, mask, log_probs = _sample_text(self, params, prompts, keys, sampling, length)
        return Rollout(tokens, mask, log_probs, None, "text")

    def log_probs(
        self,
        params: Params,
        prompts: Prompts,
        rollout: Rollout,
        sampling: SamplingParams,
        options: LogProbOptions,
    ) -> Float[Array, "B G T"]:
        """Log-probs of a rollout under ``params``; see ``sampling.log_probs``."""
        return _log_probs(
            self,
            params,
            prompts,
            rollout.tokens,
            rollout.is_external,
            sampling,
            rollout.modality,
            options,
        )

    def log_probs_and_entropies(
        self,
        params: Params,
        prompts: Prompts,
        rollout: Rollout,
        sampling: SamplingParams,
        options: LogProbOptions,
    ) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
        """``log_probs``, and the entropy of the distribution of every token."""
        return _log_probs_and_entropies(
            self,
            params,
            prompts,
            rollout.tokens,
            rollout.is_external,
            sampling,
            rollout.modality,
            options,
        )

    def with_pictures(
        self,
        params: Params,
        rollout: Rollout,
        images: Float[Array, "B H W 3"],
        is_external: Bool[Array, "B G"],
    ) -> Rollout:
        """``rollout`` with some samples replaced by pictures, as the image tokenizer sees them.

        Args:
          images: one per prompt, in [-1, 1].
          is_external: which samples are replaced.
        """
        leaves = (rollout.tokens, rollout.log_probs, rollout.pixels)
        tokens, log_probs, pixels = _with_pictures(self, params, leaves, images, is_external)
        return dataclasses.replace(
            rollout, tokens=tokens, log_probs=log_probs, pixels=pixels, is_external=is_external
        )

    def code_vectors(self, params: Params, tokens: Int[Array, "B G S"]) -> Float[Array, "B G S Z"]:
        """Vectors of image tokens in the codebook of the image tokenizer."""
        return _code_vectors(self, params, tokens)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # jit asks for it at every call, and the definition of a model is a large tree.
        return hash((self.graphdef, self.cfg, self.ids))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sample_images(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: SamplingParams,
    guided: bool,
) -> tuple[jax.Array, ...]:
    """Tokens, mask, log-probs and pixels, each ``[B, G, ...]``."""
    model = bind(policy.graphdef, params)
    tokens, log_probs = decode_image(model, prompts, keys, sampling, policy.ids, guided)

    # Pixels are decoded in turns: a decoder's activations for a whole rollout would be its peak.
    images_at_once = PIXELS_AT_ONCE // policy.cfg.image_size**2
    pixels = decode_to_pixels(model, constrain(tokens, "batch"), images_at_once)

    outputs = (tokens, jnp.ones(tokens.shape, bool), log_probs, pixels)
    return tuple(leaf.reshape(*keys.shape, *leaf.shape[1:]) for leaf in outputs)


def decode_to_pixels(
    model: UnifiedModel, tokens: Int[Array, "N S"], images_at_once: int
) -> UInt8[Array, "N H W 3"]:
    """Pixels of image tokens, of at most ``images_at_once`` images on a device at a time."""
    return _in_turns(model, lambda tokenizer: tokenizer.decode_pixels, tokens, images_at_once)


def encode_images(
    model: UnifiedModel, images: Float[Array, "N H W 3"], images_at_once: int
) -> Int[Array, "N S"]:
    """Image tokens of images in [-1, 1], of at most ``images_at_once`` on a device at a time."""
    return _in_turns(model, lambda tokenizer: tokenizer.encode, images, images_at_once)


def _in_turns(
    model: UnifiedModel,
    program: Callable[[ImageTokenizerModule], Callable[[jax.Array], jax.Array]],
    rows: jax.Array,
    images_at_once: int,
) -> jax.Array:
    """A program of the image tokenizer over ``rows``, each device its own."""
    graphdef, tokenizer = nnx.split(model.image_tokenizer)

    # Each device computes its own rows; left to the compiler, convolutions would exchange them.
    def compute(tokenizer: Any, rows: jax.Array) -> jax.Array:
        of_rows = program(nnx.merge(graphdef, tokenizer))

        # The fewest equal turns that are small enough.
        images = len(rows)
        turns = next(
            turns
            for turns in range(1, images + 1)
            if images % turns == 0 and images <= turns * max(images_at_once, 1)
        )
        if turns == 1:
            return of_rows(rows)
        results = jax.lax.map(of_rows, rows.reshape(turns, -1, *rows.shape[1:]))
        return results.reshape(-1, *results.shape[2:])

    return per_device(compute, tokenizer, rows, batch_axes_spec(()))


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _sample_image_tokens(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: SamplingParams,
    length: int,
    guided: bool,
) -> Int[Array, "B G S"]:
    model = bind(policy.graphdef, params)
    tokens, _ = decode_image(model, prompts, keys, sampling, policy.ids, guided, length)
    return tokens.reshape(*keys.shape, length)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sample_text(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    sampling: SamplingParams,
    length: int,
) -> tuple[Int[Array, "B G T"], Bool[Array, "B G T"], Float[Array, "B G T"]]:
    model = bind(policy.graphdef, params)
    outputs = decode_text(model, prompts, keys, sampling, policy.ids, length)
    tokens, mask, log_probs = (leaf.reshape(*keys.shape, length) for leaf in outputs)
    return tokens, mask, log_probs


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _log_probs(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    is_external: Bool[Array, "B G"] | None,
    sampling: SamplingParams,
    modality: Modality,
    options: LogProbOptions,
) -> Float[Array, "B G T"]:
    def of_rows(rows: Any) -> Float[Array, "B G T"]:
        (prompts, tokens, unguided), model = rows, bind(policy.graphdef, params)
        log_probs, _ = log_probs_and_entropy(
            model, prompts, tokens, sampling, policy.ids, modality, options, unguided
        )
        return log_probs

    return _in_microbatches(of_rows, (prompts, tokens, is_external), options.microbatches)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _log_probs_and_entropies(
    policy: PolicyFns,
    params: Params,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    is_external: Bool[Array, "B G"] | None,
    sampling: SamplingParams,
    modality: Modality,
    options: LogProbOptions,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    def of_rows(rows: Any) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
        (prompts, tokens, unguided), model = rows, bind(policy.graphdef, params)
        return log_probs_and_entropy(
            model, prompts, tokens, sampling, policy.ids, modality, options, unguided
        )

    return _in_microbatches(of_rows, (prompts, tokens, is_external), options.microbatches)


@functools.partial(jax.jit, static_argnums=0)
def _with_pictures(
    policy: PolicyFns,
    params: Params,
    leaves: tuple[jax.Array, jax.Array, jax.Array],
    images: Float[Array, "B H W 3"],
    is_external: Bool[Array, "B G"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, log-probs and pixels ``[B, G, ...]`` with those of pictures where ``is_external``."""
    model = bind(policy.graphdef, params)
    images_at_once = PIXELS_AT_ONCE // policy.cfg.image_size**2
    tokens = encode_images(model, constrain(images, "batch"), images_at_once)
    pixels = decode_to_pixels(model, tokens, images_at_once)
    of_pictures = (tokens, jnp.zeros(tokens.shape, jnp.float32), pixels)

    def replace(own: jax.Array, external: jax.Array) -> jax.Array:
        chosen = is_external.reshape(*is_external.shape, *[1] * (own.ndim - 2))
        return jnp.where(chosen, external[:, None].astype(own.dtype), own)

    tokens, log_probs, pixels = map(replace, leaves, of_pictures)
    return tokens, log_probs, pixels


@functools.partial(jax.jit, static_argnums=0)
def _code_vectors(
    policy: PolicyFns, params: Params, tokens: Int[Array, "B G S"]
) -> Float[Array, "B G S Z"]:
    return bind(policy.graphdef, params).image_tokenizer.code_vectors(tokens)


def _in_microbatches(function: Callable[[Any], Any], rows: Any, microbatches: int) -> Any:
    """``function`` of all rows at once, or of their micro-batches one after another."""
    if microbatches == 1:
        return function(rows)
    check_rows(rows, microbatches)
    return join_rows(jax.lax.map(function, split_rows(rows, microbatches)))
