"""Terms of the image tokenizer's loss. In: pictures in [-1, 1], latents, codes; out: one number per term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PEAK = 2.0
"""Range of a picture in [-1, 1]."""


def pixel_terms(
    pictures: Float[Array, "N H W 3"], real: Float[Array, "N H W 3"]
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Mean squared and mean absolute error of every picture."""
    error = pictures - real
    return jnp.mean(jnp.square(error), (1, 2, 3)), jnp.mean(jnp.abs(error), (1, 2, 3))


def psnr(squared_error: Float[Array, "..."]) -> Float[Array, "..."]:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return 10 * jnp.log10(PEAK**2 / jnp.maximum(squared_error, 1e-12))


def codebook_terms(
    latents: Float[Array, "... Z"], codes: Float[Array, "... Z"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """How far codes are from latents (moves the codebook) and latents from codes (commitment), VQ-VAE Eq. 3."""
    codebook = jnp.sum(jnp.square(jax.lax.stop_gradient(latents) - codes), -1)
    commitment = jnp.sum(jnp.square(latents - jax.lax.stop_gradient(codes)), -1)
    return codebook, commitment


def straight_through(
    latents: Float[Array, "... Z"], codes: Float[Array, "... Z"]
) -> Float[Array, "... Z"]:
    """Value of ``codes``, gradient of ``latents``."""
    return latents + jax.lax.stop_gradient(codes - latents)


def usage_terms(
    similarity: Float[Array, "... I"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Entropy of single soft assignments (to be small) and of their mean (to be large), so that no code dies.

    The entropy penalty of MaskGIT and MAGVIT-v2 (Eq. 5), on cosines divided by ``temperature``.
    """
    log_probs = jax.nn.log_softmax(similarity.reshape(-1, similarity.shape[-1]) / temperature, -1)
    probs = jnp.exp(log_probs)
    mean = jnp.mean(probs, 0)
    return -jnp.mean(jnp.sum(probs * log_probs, -1)), -jnp.sum(mean * jnp.log(mean + 1e-9))
