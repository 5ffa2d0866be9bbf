"""The reward that keeps answers below their longest length.

In: text completions that a policy wrote; out: ``[N]`` in [-1, 0].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards, text_of


@rewards.register("overlong")
def overlong(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """0, then falling to -1 over the last ``overlong_buffer`` tokens of the longest length.

    The soft punishment of DAPO (Yu et al., 2025, Eq. 13): 0 up to ``max - buffer`` tokens, from there
    ``(max - buffer - length) / buffer``.
    """
    buffer = context.options.overlong_buffer
    values = []
    for completion in completions:
        text_of(completion)
        if completion.length is None or completion.max_length is None:
            raise ValueError(
                "this reward needs the length of the answer in tokens, which only answers of the "
                "policy have"
            )
        excess = completion.length - (completion.max_length - buffer)
        values.append(-min(max(excess / buffer, 0.0), 1.0))
    return np.array(values)
