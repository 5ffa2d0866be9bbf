"""Rewards for images of the shapes world, which its exact parser reads.

In: image completions whose prompts are captions of the shapes grammar; out: ``[N]`` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.data.shapes.captions import agreement, parse_caption, satisfies
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


@rewards.register("shapes_strict")
def shapes_strict(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """1 where the image shows exactly the objects and the relation of its prompt, otherwise 0."""
    parsed_images = parse_batch(np.stack([pixels_of(completion) for completion in completions]))
    specs = [parse_caption(completion.record.prompt) for completion in completions]
    return np.array(
        [float(satisfies(spec, parsed)) for spec, parsed in zip(specs, parsed_images, strict=True)]
    )


@rewards.register("shapes_soft")
def shapes_soft(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """Partial credit for count, colours, shapes and their binding, see ``captions.agreement``."""
    parsed_images = parse_batch(np.stack([pixels_of(completion) for completion in completions]))
    specs = [parse_caption(completion.record.prompt) for completion in completions]
    return np.array(
        [agreement(spec, parsed) for spec, parsed in zip(specs, parsed_images, strict=True)]
    )
