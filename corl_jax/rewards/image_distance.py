"""Similarity of a generated image to the real one, and the rewards made of it.

The config names the measure: 1 minus an error (``mse``, ``rmse``, ``lpips``) or a similarity
(``ssim``, ``psnr``).

In: generated and real images of the same size; out: ``[N]`` in [0, 1], 1 for identical images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion
from corl_jax.data.images import resize_image
from corl_jax.data.records import image_of
from corl_jax.rewards.base import RewardContext, pixels_of, rewards

Images = UInt8[np.ndarray, "N H W 3"]
ImageSimilarity = Callable[[Images, Images, RewardContext], np.ndarray]
"""``(images, real_images, context) -> [N]``, higher for images that are closer."""

image_distances: Registry[ImageSimilarity] = Registry("image distance")

IDENTICAL_PSNR_DB = 50.0
"""Peak signal-to-noise ratio in dB from which on two images count as identical."""

# The window and the constants of SSIM (Wang et al., 2004).
SSIM_SIGMA = (0, 1.5, 1.5, 0)  # per axis of [N, H, W, 3]
SSIM_TRUNCATE = 3.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def _mean_squared_errors(images: Images, real_images: Images) -> Float[np.ndarray, "N"]:
    """Mean squared error per image, on a scale where pixels are in [0, 1]."""
    return np.mean(np.square((images.astype(np.float64) - real_images) / 255), axis=(1, 2, 3))


@image_distances.register("mse")
def mse(images: Images, real_images: Images, context: RewardContext) -> Float[np.ndarray, "N"]:
    """``1 - mean squared error``."""
    return 1 - _mean_squared_errors(images, real_images)


@image_distances.register("rmse")
def rmse(images: Images, real_images: Images, context: RewardContext) -> Float[np.ndarray, "N"]:
    """``1 - root mean squared error``."""
    return 1 - np.sqrt(_mean_squared_errors(images, real_images))


@image_distances.register("psnr")
def psnr(images: Images, real_images: Images, context: RewardContext) -> Float[np.ndarray, "N"]:
    """Peak signal-to-noise ratio as a fraction of ``IDENTICAL_PSNR_DB``, clipped to [0, 1]."""
    # The floor keeps the logarithm of identical images finite.
    errors = np.maximum(_mean_squared_errors(images, real_images), 1e-12)
    return np.clip(-10 * np.log10(errors) / IDENTICAL_PSNR_DB, 0, 1)


@image_distances.register("ssim")
def ssim(images: Images, real_images: Images, context: RewardContext) -> Float[np.ndarray, "N"]:
    """Structural similarity (Wang et al., 2004), averaged over positions and channels.

    Local statistics are taken under a Gaussian window of 11 pixels.
    """
    x = images.astype(np.float64) / 255
    y = real_images.astype(np.float64) / 255

    def local_mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, SSIM_SIGMA, truncate=SSIM_TRUNCATE)

    # Local means, variances and covariance: mu, sigma^2 and sigma_xy of the paper.
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x**2) - mean_x**2, local_mean(y**2) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y

    # The paper's luminance term, then its product with the contrast-structure term.
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    similarity_map = luminance * (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)

    # Negative where the structures are opposite, which counts as no similarity.
    return np.clip(similarity_map.mean((1, 2, 3)), 0, 1)


@image_distances.register("lpips")
def lpips(images: Images, real_images: Images, context: RewardContext) -> Float[np.ndarray, "N"]:
    """``1 - LPIPS`` on VGG16 (Zhang et al., 2018; the choice of ULM-R1), at least 0."""
    distances = context.reward_models.lpips.distance(images, list(real_images))
    # LPIPS has no upper bound.
    return np.clip(1 - distances, 0, 1)


def similarity_to_real_image(
    completions: Sequence[Completion], name: str, context: RewardContext
) -> Float[np.ndarray, "N"]:
    """The similarity of each generated image to its record's image.

    Args:
      completions: ``N`` image completions.
      name: which image distance, see ``image_distances``.
      context: for distances that need a reward model.
    """
    images = np.stack([pixels_of(completion) for completion in completions])

    # Real images may have any size: bring them to the size of the generated ones.
    size = (images.shape[2], images.shape[1])
    real_images = [resize_image(image_of(completion.record), size) for completion in completions]
    return image_distances[name](images, np.stack(real_images), context)


@rewards.register("pixel")
def pixel(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """Similarity to the real image by the distance that ``image_distance`` names."""
    return similarity_to_real_image(completions, context.options.image_distance, context)


@rewards.register("perceptual")
def perceptual(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """``1 - LPIPS`` to the real image, whatever ``image_distance`` names."""
    return similarity_to_real_image(completions, "lpips", context)
