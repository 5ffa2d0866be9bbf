"""Text-image matching: on the policy's own token states, and by CLIP. In: picture completions; out: a number each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.shapes import pixels_of


def matching_score(image_SD: np.ndarray, text_LD: np.ndarray) -> float:
    """``(mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)) / 2`` in [-1, 1] (CoRL Eq. 4)."""
    image = image_SD / np.maximum(np.linalg.norm(image_SD, axis=-1, keepdims=True), 1e-12)
    text = text_LD / np.maximum(np.linalg.norm(text_LD, axis=-1, keepdims=True), 1e-12)
    cosine = image @ text.T
    return float((cosine.max(1).mean() + cosine.max(0).mean()) / 2)


@rewards.register("matching")
def matching(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """CoRL's R_TIM: the policy reads the picture and its prompt; spans come from the token layout.

    Mapped to [0, 1], unless ``reward.normalise=none``, as the reference code has it.
    """
    pictures = np.stack([pixels_of(c) for c in completions])
    states = context.reader.token_states(pictures, [c.record.prompt for c in completions])
    cosines = np.array(
        [
            matching_score(image[image_mask], text[text_mask])
            for image, image_mask, text, text_mask in zip(*states, strict=True)
        ]
    )
    return cosines if context.settings.normalise == "none" else (cosines + 1) / 2


@rewards.register("clip")
def clip(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Cosine of picture and prompt under CLIP (the reward of CoRL's pilot study), mapped to [0, 1].

    Under ``reward.normalise=none`` twice the cosine, as the reference code has it.
    """
    pictures = np.stack([pixels_of(c) for c in completions])
    cosines = context.reward_models.clip.cosine(pictures, [c.record.prompt for c in completions])
    return 2 * cosines if context.settings.normalise == "none" else (cosines + 1) / 2
