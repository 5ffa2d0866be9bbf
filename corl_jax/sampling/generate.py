"""Compiled rollouts: prompts in, ``Rollout`` out; one program for pictures, one for text.

Guidance, temperature and keys are traced, so only shapes compile anew.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, UInt8

from corl_jax.core.per_device import batch_axes_spec, per_device
from corl_jax.core.sharding import constrain
from corl_jax.core.trees import bind
from corl_jax.core.types import Modality, Params, Prompts, Rollout
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import Janus
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.decode import decode_image, decode_text
from corl_jax.sampling.log_probs import log_probs_and_entropy
from corl_jax.sampling.prompt_layout import SpecialTokenIds

AT_ONCE = 8 * 384 * 384
"""Pixels that a device makes at once; with 32 such pictures, a rollout compiled for a v5e took 2.3 kB for each."""


@dataclasses.dataclass(frozen=True)
class PolicyFns:
    """The programs of one model definition; parameters are arguments, so policy and reference share them.

    Attributes:
      graphdef: from ``core.trees.flatten``.
      cfg: sizes.
      ids: special ids.
    """

    graphdef: Any
    cfg: JanusConfig
    ids: SpecialTokenIds

    def sampling(
        self, modality: str, *, guidance: Any = 1.0, temperature: Any = 1.0
    ) -> SamplingParams:
        """Settings with traced scalars, and for text the banned ids."""
        banned = self.ids.banned_mask(self.cfg.decoder.vocab_size) if modality == "text" else None
        return SamplingParams(jnp.float32(guidance), jnp.float32(temperature), 1.0, 0, banned)

    def sample_images(
        self,
        params: Params,
        prompts: Prompts,
        keys: jax.Array,
        sampling: SamplingParams,
        guided: bool = True,
    ) -> Rollout:
        """``G`` pictures per prompt, decoded to pixels in the same program.

        Args:
          params: of the whole model.
          prompts: ``B`` prompts that end in the begin-of-image token.
          keys: ``[B, G]``, one per sample.
          sampling: from ``self.sampling("image", ...)``.
          guided: False skips the unconditional stream, which guidance 1 does not need.
        """
        codes, mask, log_probs, pixels = _draw(self, params, prompts, keys, sampling, guided)
        return Rollout(codes, mask, log_probs, pixels, "image")

    def codes(
        self,
        params: Params,
        prompts: Prompts,
        keys: jax.Array,
        sampling: SamplingParams,
        length: int,
        guided: bool = True,
    ) -> jax.Array:
        """The first ``length`` image tokens of pictures, ``[B, G, length]``, not decoded; arguments as in ``draw``."""
        return _codes(self, params, prompts, keys, sampling, length, guided)

    def sample_text(
        self,
        params: Params,
        prompts: Prompts,
        keys: jax.Array,
        sampling: SamplingParams,
        length: int,
    ) -> Rollout:
        """``G`` texts of at most ``length`` tokens per prompt; arguments as in ``draw``."""
        tokens, mask, log_probs = _write(self, params, prompts, keys, sampling, length)
        return Rollout(tokens, mask, log_probs, None, "text")

    def log_probs(
        self,
        params: Params,
        prompts: Prompts,
        rollout: Rollout,
        sampling: SamplingParams,
        **how: Any,
    ) -> jax.Array:
        """``[B, G, T]`` of a rollout under ``params``; ``how`` as in ``log_probs_and_entropy``."""
        return _score(self, params, prompts, rollout.tokens, sampling, rollout.modality, **how)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(
        self,
    ) -> int:  # asked for at every call of a program, and the definition of a model is a large tree
        return hash((self.graphdef, self.cfg, self.ids))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _draw(
    sampler: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Any,
    sampling: SamplingParams,
    guided: bool,
) -> Any:
    model = bind(sampler.graphdef, params)
    codes, log_probs = decode_image(model, prompts, keys, sampling, sampler.ids, guided)
    pixels = decode_to_pixels(
        model, constrain(codes, "batch"), AT_ONCE // sampler.cfg.vision.image_size**2
    )
    out = (codes, jnp.ones(codes.shape, bool), log_probs, pixels)
    return tuple(leaf.reshape(*keys.shape, *leaf.shape[1:]) for leaf in out)


def decode_to_pixels(model: Janus, codes: Int[Array, "N S"], most: int) -> UInt8[Array, "N H W 3"]:
    """Pixels of image tokens, of at most ``most`` pictures on a device at a time."""
    graphdef, tokenizer = nnx.split(model.image_tokenizer)

    def show(tokenizer: Any, codes: jax.Array) -> jax.Array:
        draw = nnx.merge(graphdef, tokenizer).decode_pixels
        turns = next(
            n
            for n in range(1, len(codes) + 1)
            if len(codes) % n == 0 and len(codes) <= n * max(most, 1)
        )
        if turns == 1:
            return draw(codes)
        pixels = jax.lax.map(draw, codes.reshape(turns, -1, *codes.shape[1:]))
        return pixels.reshape(-1, *pixels.shape[2:])

    return per_device(show, tokenizer, codes, batch_axes_spec(()))


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _codes(
    sampler: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Any,
    sampling: SamplingParams,
    length: int,
    guided: bool,
) -> Any:
    model = bind(sampler.graphdef, params)
    return decode_image(model, prompts, keys, sampling, sampler.ids, guided, length)[0].reshape(
        *keys.shape, length
    )


@functools.partial(jax.jit, static_argnums=(0, 5))
def _write(
    sampler: PolicyFns,
    params: Params,
    prompts: Prompts,
    keys: Any,
    sampling: SamplingParams,
    length: int,
) -> Any:
    model = bind(sampler.graphdef, params)
    out = decode_text(model, prompts, keys, sampling, sampler.ids, length)
    return tuple(leaf.reshape(*keys.shape, length) for leaf in out)


@functools.partial(
    jax.jit, static_argnums=(0, 5), static_argnames=("guided", "shared_prefix", "chunk", "aligned")
)
def _score(
    sampler: PolicyFns,
    params: Params,
    prompts: Prompts,
    tokens: Any,
    sampling: SamplingParams,
    modality: Modality,
    **how: Any,
) -> Any:
    model = bind(sampler.graphdef, params)
    return log_probs_and_entropy(
        model, prompts, tokens, sampling, sampler.ids, modality=modality, **how
    )[0]
