"""Rewards of the embedded world's pictures, read by its exact parser. In: picture completions; out: [0, 1] each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.data.shapes.captions import agreement, parse_caption, satisfies
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.rewards.base import RewardContext, rewards


def pixels_of(completion: Completion) -> np.ndarray:
    """The picture of a picture completion, uint8 ``[H, W, 3]``."""
    if completion.pixels is None:
        raise ValueError("this reward looks at pictures, but the completion is a text")
    return completion.pixels


@rewards.register("shapes_strict")
def shapes_strict(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the picture shows exactly the objects and the relation of its prompt, and nothing else."""
    parsed = parse_batch(np.stack([pixels_of(c) for c in completions]))
    specs = [parse_caption(c.record.prompt) for c in completions]
    return np.array(
        [float(satisfies(spec, scene)) for spec, scene in zip(specs, parsed, strict=True)]
    )


@rewards.register("shapes_soft")
def shapes_soft(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Partial credit for count, colours, shapes and their binding, see ``captions.agreement``."""
    parsed = parse_batch(np.stack([pixels_of(c) for c in completions]))
    specs = [parse_caption(c.record.prompt) for c in completions]
    return np.array([agreement(spec, scene) for spec, scene in zip(specs, parsed, strict=True)])
