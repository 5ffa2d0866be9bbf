"""Text-image matching on the policy's own token states. In: picture completions; out: a number in [0, 1] each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.image import pixels_of


def matching_score(image_SD: np.ndarray, text_LD: np.ndarray) -> float:
    """``(mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)) / 2`` in [-1, 1] (CoRL Eq. 4)."""
    image = image_SD / np.maximum(np.linalg.norm(image_SD, axis=-1, keepdims=True), 1e-12)
    text = text_LD / np.maximum(np.linalg.norm(text_LD, axis=-1, keepdims=True), 1e-12)
    cosine = image @ text.T
    return float((cosine.max(1).mean() + cosine.max(0).mean()) / 2)


@rewards.register("matching")
def matching(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """CoRL's R_TIM, mapped to [0, 1]: the policy reads the picture and its prompt; spans come from the token layout."""
    if context.policy is None:
        raise ValueError("this reward reads the policy's own states, but no policy was handed in")
    pictures = np.stack([pixels_of(c) for c in completions])
    states = context.policy.token_states(pictures, [c.record.prompt for c in completions])
    return np.array(
        [
            (matching_score(image[image_mask], text[text_mask]) + 1) / 2
            for image, image_mask, text, text_mask in zip(*states, strict=True)
        ]
    )
