"""Terms of the image tokenizer's loss (VQ-VAE), each as one number per image, latent or batch.

In: images with pixels in [-1, 1], latents, codes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Difference between the largest and the smallest pixel value.
PEAK = 2.0


def pixel_errors(
    images: Float[Array, "N H W 3"], targets: Float[Array, "N H W 3"]
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Mean squared error and mean absolute error of each reconstructed image."""
    error = images - targets
    return jnp.mean(jnp.square(error), (1, 2, 3)), jnp.mean(jnp.abs(error), (1, 2, 3))


def psnr(squared_error: Float[Array, "..."]) -> Float[Array, "..."]:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], from their mean squared error."""
    # The maximum keeps the PSNR of a perfect reconstruction finite.
    return 10 * jnp.log10(PEAK**2 / jnp.maximum(squared_error, 1e-12))


def codebook_losses(
    latents: Float[Array, "... Z"], codes: Float[Array, "... Z"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Codebook loss and commitment loss of each latent (VQ-VAE Eq. 3).

    Both are the squared distance between latent and code. The first moves the code alone, the
    second the latent alone.
    """
    codebook = jnp.sum(jnp.square(jax.lax.stop_gradient(latents) - codes), -1)
    commitment = jnp.sum(jnp.square(latents - jax.lax.stop_gradient(codes)), -1)
    return codebook, commitment


def straight_through(
    latents: Float[Array, "... Z"], codes: Float[Array, "... Z"]
) -> Float[Array, "... Z"]:
    """The straight-through estimator: the value of ``codes``, with the gradient of ``latents``."""
    # Forward, the latents cancel; backward, only they have a gradient.
    return latents + jax.lax.stop_gradient(codes - latents)


def code_entropies(
    similarity: Float[Array, "... I"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Entropy of each soft assignment to codes, averaged, and entropy of the average assignment.

    The first should be small (every latent is close to one code), the second large (all codes are
    used). Their difference is the entropy penalty of MaskGIT and MAGVIT-v2 (Eq. 5).

    Args:
      similarity: cosine of each latent to each code.
      temperature: divides the cosines.
    """
    log_probs = jax.nn.log_softmax(similarity.reshape(-1, similarity.shape[-1]) / temperature, -1)
    probs = jnp.exp(log_probs)
    mean = jnp.mean(probs, 0)

    # Codes that no latent is close to have probability 0 in the mean, whose logarithm is -inf.
    return -jnp.mean(jnp.sum(probs * log_probs, -1)), -jnp.sum(mean * jnp.log(mean + 1e-9))
