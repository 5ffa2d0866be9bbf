"""The text-image matching reward on the policy's token states (CoRL's R_TIM).

In: image completions; out: one number each. For the same idea under CLIP see ``rewards.clip``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


def matching_score(image_SD: Float[np.ndarray, "S D"], text_LD: Float[np.ndarray, "L D"]) -> float:
    """``(mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)) / 2`` in [-1, 1] (CoRL Eq. 4)."""
    # Unit vectors, so that one product gives the cosines of all pairs, [S, L].
    image = image_SD / np.maximum(np.linalg.norm(image_SD, axis=-1, keepdims=True), 1e-12)
    text = text_LD / np.maximum(np.linalg.norm(text_LD, axis=-1, keepdims=True), 1e-12)
    cosine = image @ text.T

    # The best caption token for each image token, and the best image token for each caption token.
    return float((cosine.max(1).mean() + cosine.max(0).mean()) / 2)


@rewards.register("matching")
def matching(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """``matching_score`` of each image and its prompt, which the policy reads in one sequence.

    The spans of image and caption come from the token layout, not from fixed offsets (see
    docs/decisions.md#caption-span). The score is mapped to [0, 1]; under ``normalization=none``
    it stays in [-1, 1], as in ULM-R1's code.
    """
    images = np.stack([pixels_of(completion) for completion in completions])
    prompts = [completion.record.prompt for completion in completions]

    # States of all positions, and which of them belong to the image and to the caption.
    image_states, image_masks, text_states, text_masks = context.policy_handle.token_states(
        images, prompts
    )

    scores = np.array(
        [
            matching_score(image[image_mask], text[text_mask])
            for image, image_mask, text, text_mask in zip(
                image_states, image_masks, text_states, text_masks, strict=True
            )
        ]
    )
    return scores if context.options.normalization == "none" else (scores + 1) / 2
