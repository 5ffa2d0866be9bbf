"""Rewards of pictures that need no network: exact parse of the embedded world, and cycle consistency.

In: picture completions; out: a number in [0, 1] each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion
from corl_jax.data.shapes.captions import agreement, describe, parse_caption, satisfies, write
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.rewards.answers import token_f1
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
    return np.array([float(satisfies(spec, scene)) for spec, scene in zip(specs, parsed, strict=True)])


@rewards.register("shapes_soft")
def shapes_soft(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Partial credit for count, colours, shapes and their binding, see ``captions.agreement``."""
    parsed = parse_batch(np.stack([pixels_of(c) for c in completions]))
    specs = [parse_caption(c.record.prompt) for c in completions]
    return np.array([agreement(spec, scene) for spec, scene in zip(specs, parsed, strict=True)])


closeness: Registry[Callable[[np.ndarray, np.ndarray], float]] = Registry("picture closeness")


@closeness.register("rmse")
def rmse(picture: np.ndarray, real: np.ndarray) -> float:
    """``1 - root mean squared error`` of pictures in [0, 1]."""
    return 1 - float(np.sqrt(np.mean(np.square((picture.astype(np.float64) - real) / 255))))


@closeness.register("mse")
def mse(picture: np.ndarray, real: np.ndarray) -> float:
    """``1 - mean squared error`` of pictures in [0, 1]."""
    return 1 - float(np.mean(np.square((picture.astype(np.float64) - real) / 255)))


@rewards.register("cycle")
def cycle(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Bidirectional cycle consistency (CoRL Eq. 3, parts in [0, 1] and averaged): caption of the picture against the
    prompt, and the picture against the real one.

    The captioner is the exact parser, and the two captions are compared by ``answers.token_f1`` in canonical order, so
    that only what is said counts; a relation that the prompt asks for is said of the picture if it holds there.
    """
    parsed = parse_batch(np.stack([pixels_of(c) for c in completions]))
    values = []
    for completion, seen in zip(completions, parsed, strict=True):
        spec = parse_caption(completion.record.prompt)
        caption = write(spec) if spec.relation and satisfies(spec, seen) else describe(seen.scene)
        real = completion.record.image
        if real.shape != pixels_of(completion).shape:
            size = pixels_of(completion).shape[1::-1]
            real = np.asarray(Image.fromarray(real).resize(size, Image.Resampling.BICUBIC))
        text = token_f1(caption, write(spec))
        values.append((text + rmse(pixels_of(completion), real)) / 2)
    return np.array(values)
