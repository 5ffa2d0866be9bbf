"""The text-image matching reward on the policy's token states (CoRL's R_TIM).

In: image completions; out: one number each. For the same idea under CLIP see ``rewards.clip``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


@rewards.register("matching")
def matching(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """``objectives.token_matching`` of image and prompt, which the policy reads in one sequence.

    The spans of image and caption come from the token layout, not from fixed offsets (see
    docs/decisions.md#caption-span). The score is mapped to [0, 1]; under ``normalization=none``
    it stays in [-1, 1], as in ULM-R1's code.
    """
    images = np.stack([pixels_of(completion) for completion in completions])
    prompts = [completion.record.prompt for completion in completions]
    scores = context.policy_handle.matching_scores(images, prompts)
    return scores if context.options.normalization == "none" else (scores + 1) / 2
