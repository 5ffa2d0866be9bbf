"""The CLIP reward: how well image and prompt agree. In: image completions; out: ``[N]``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


@rewards.register("clip")
def clip(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """Cosine of image and prompt under CLIP (the reward of CoRL's pilot study), mapped to [0, 1].

    Under ``normalization=none`` it is twice the cosine, as in ULM-R1's code.
    """
    images = np.stack([pixels_of(completion) for completion in completions])
    prompts = [completion.record.prompt for completion in completions]
    cosines = context.reward_models.clip.cosine(images, prompts)
    # [-1, 1] becomes [0, 1], or [-2, 2] as in ULM-R1's code.
    return 2 * cosines if context.options.normalization == "none" else (cosines + 1) / 2
