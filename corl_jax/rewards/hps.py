"""The preference reward HPS v2: how much people would like a picture of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


@rewards.register("hps")
def hps(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """Cosine of image and prompt under HPS v2 (a reward of T2I-R1), mapped to [0, 1].

    Under ``normalization=none`` the cosine itself, as in T2I-R1's code.
    """
    images = np.stack([pixels_of(completion) for completion in completions])
    prompts = [completion.record.prompt for completion in completions]
    cosines = context.reward_models.hps.cosine(images, prompts)
    return cosines if context.options.normalization == "none" else (cosines + 1) / 2
