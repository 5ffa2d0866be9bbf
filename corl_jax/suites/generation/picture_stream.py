"""Pictures of prompts as they come from the device, in calls of one shape.

The picture of a sample depends on the seed, the id of its prompt and the number of the sample, and
not on what else is drawn. All processes of a mesh call together.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from corl_jax.core.sharding import to_host
from corl_jax.core.types import Prompts
from corl_jax.evals.config import EvalPolicy
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.suites.generation.prompts import GenerationPrompt

KEY_STREAM = "suite/draw"
"""Part of the keys: renaming it would change every picture."""


@dataclasses.dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn.

    Attributes:
      samples: pictures per prompt.
      seed: of sampling.
      guidance: scale of classifier-free guidance; 1 is none.
      temperature: 0 is greedy.
      batch_size: most pictures per compiled call; it changes no picture beyond rounding.
    """

    samples: int
    seed: int
    guidance: float
    temperature: float
    batch_size: int


def draw_pictures(
    policy: EvalPolicy,
    batch: Prompts,
    prompts: Sequence[GenerationPrompt],
    missing: np.ndarray,
    settings: DrawSettings,
) -> Iterator[tuple[int, UInt8[np.ndarray, "G H W 3"]]]:
    """Draws the pictures of some prompts.

    Args:
      policy: what draws.
      batch: all prompts as tokens.
      prompts: the same as texts.
      missing: places of those that are drawn.
      settings: how.

    Yields:
      place and pictures of each prompt, as soon as all of its samples are there.
    """
    pending: list[np.ndarray] = []
    done = 0
    for pixels in _sample(policy, batch, prompts, missing, settings):
        pending += list(pixels)
        while len(pending) >= settings.samples:
            yield int(missing[done]), np.stack(pending[: settings.samples])
            pending, done = pending[settings.samples :], done + 1


def _sample(
    policy: EvalPolicy,
    batch: Prompts,
    prompts: Sequence[GenerationPrompt],
    missing: np.ndarray,
    settings: DrawSettings,
) -> Iterator[UInt8[np.ndarray, "N H W 3"]]:
    """The pictures of all missing prompts, sample by sample, in calls of one shape."""
    # A row is a picture. Its key comes from the id, so that other prompts do not change it.
    hashes = np.array([zlib.crc32(prompt.id.encode()) for prompt in prompts], np.uint32)
    places = np.repeat(missing, settings.samples)
    params = policy.fns.sampling_params(
        "image", guidance=settings.guidance, temperature=settings.temperature
    )
    # Also for the rows of a resumed run, or their programs would be others.
    size = batch_size(len(prompts) * settings.samples, settings.batch_size)
    if not len(missing):
        return
    keys = prompt_keys(settings.seed, KEY_STREAM, hashes[missing], settings.samples)
    keys = keys.reshape(-1, 1)

    # The next call is under way while the pictures of the last one are written.
    under_way: list[tuple[Any, int]] = []
    for rows, valid in batch_rows(len(places), size):
        rollout = policy.fns.sample_images(
            policy.params,
            take(batch, places[rows]),
            keys[rows],
            params,
            guided=settings.guidance != 1,
        )
        under_way.append((rollout.pixels, valid))
        if len(under_way) > 1:
            yield _to_host(*under_way.pop(0))
    for pixels, valid in under_way:
        yield _to_host(pixels, valid)


def _to_host(pixels: Any, valid: int) -> UInt8[np.ndarray, "N H W 3"]:
    # The last call is filled up with copies of the last row; only `valid` rows count.
    return to_host(pixels)[:valid, 0]
