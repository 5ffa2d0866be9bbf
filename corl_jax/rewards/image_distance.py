"""How near a picture is to the real one, by name, and the rewards that say just that.

In: pictures and real pictures of the same size; out: a number in [0, 1] each, 1 for the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion
from corl_jax.data.images import resized
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.shapes import pixels_of

Closeness = Callable[[np.ndarray, np.ndarray, RewardContext], np.ndarray]
"""``(pictures uint8 [N, H, W, 3], real ones [N, H, W, 3], context) -> [N]``."""

image_distances: Registry[Closeness] = Registry("picture closeness")
CLEAR_DB = 50.0
"""A peak signal-to-noise ratio from which on pictures count as the same."""


def _errors(pictures: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """Mean squared errors ``[N]`` of pictures in [0, 1]."""
    return np.mean(np.square((pictures.astype(np.float64) - reals) / 255), axis=(1, 2, 3))


@image_distances.register("mse")
def mse(pictures: np.ndarray, reals: np.ndarray, context: RewardContext) -> np.ndarray:
    """``1 - mean squared error``."""
    return 1 - _errors(pictures, reals)


@image_distances.register("rmse")
def rmse(pictures: np.ndarray, reals: np.ndarray, context: RewardContext) -> np.ndarray:
    """``1 - root mean squared error``."""
    return 1 - np.sqrt(_errors(pictures, reals))


@image_distances.register("psnr")
def psnr(pictures: np.ndarray, reals: np.ndarray, context: RewardContext) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, as a share of ``CLEAR_DB``."""
    return np.clip(-10 * np.log10(np.maximum(_errors(pictures, reals), 1e-12)) / CLEAR_DB, 0, 1)


@image_distances.register("ssim")
def ssim(pictures: np.ndarray, reals: np.ndarray, context: RewardContext) -> np.ndarray:
    """Structural similarity (Wang et al., 2004): a Gaussian window of 11 pixels, the mean over places and channels."""
    left, right = pictures.astype(np.float64) / 255, reals.astype(np.float64) / 255

    def local(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 1.5, 1.5, 0), truncate=3.5)

    mean_l, mean_r = local(left), local(right)
    var_l, var_r = local(left**2) - mean_l**2, local(right**2) - mean_r**2
    both = local(left * right) - mean_l * mean_r
    light = (2 * mean_l * mean_r + 0.01**2) / (mean_l**2 + mean_r**2 + 0.01**2)
    return np.clip((light * (2 * both + 0.03**2) / (var_l + var_r + 0.03**2)).mean((1, 2, 3)), 0, 1)


@image_distances.register("lpips")
def lpips(pictures: np.ndarray, reals: np.ndarray, context: RewardContext) -> np.ndarray:
    """``1 - LPIPS`` on VGG16 (Zhang et al., 2018; the reference's choice); 0 where they are further apart than 1."""
    return np.clip(1 - context.reward_models.lpips.distance(pictures, list(reals)), 0, 1)


def similarity_to_real(
    completions: Sequence[Completion], name: str, context: RewardContext
) -> np.ndarray:
    """Every picture against its record's, which is brought to its size; ``[N]``."""
    pictures = np.stack([pixels_of(c) for c in completions])
    reals = [resized(c.record.image, (pictures.shape[2], pictures.shape[1])) for c in completions]
    return image_distances[name](pictures, np.stack(reals), context)


@rewards.register("pixel")
def pixel(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """How near the picture is to the real one, measured as ``reward.closeness`` says."""
    return similarity_to_real(completions, context.settings.closeness, context)


@rewards.register("perceptual")
def perceptual(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """``1 - LPIPS`` to the real picture, whatever ``reward.closeness`` says."""
    return similarity_to_real(completions, "lpips", context)
