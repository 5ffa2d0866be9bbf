"""Pictures that equal, or nearly equal, another one: of the same prompt, and of other prompts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from corl_jax.evals.statistics import Estimates, estimate
from corl_jax.suites.sample_quality import pixel_distances, places_by_prompt

NEAR = 0.02
"""Largest mean difference of pixels (five levels of 255) of pictures that count as nearly equal."""
BLOCKS = 4
"""Blocks per side whose colours are compared first."""
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Which pictures have a twin.

    Attributes:
      equal, near: one of the same prompt is equal, or nearly equal.
      equal_elsewhere, near_elsewhere: one of another prompt is, which is how collapse looks.
    """

    equal: Bool[np.ndarray, " N"]
    near: Bool[np.ndarray, " N"]
    equal_elsewhere: Bool[np.ndarray, " N"]
    near_elsewhere: Bool[np.ndarray, " N"]


def find_duplicates(
    digests: Sequence[bytes],
    small: UInt8[np.ndarray, "N S S 3"],
    prompts: Sequence[str],
    near: float = NEAR,
) -> Duplicates:
    """Looks for twins among all pairs of pictures.

    Args:
      digests: hashes of the whole pictures, equal where these are.
      small: the pictures from ``sample_quality.shrink_pictures``.
      prompts: of the pictures.
      near: largest distance, as ``sample_quality.pixel_distances`` has it.

    Raises:
      ValueError: numbers of digests, pictures and prompts differ.
    """
    if len(digests) != len(small):
        raise ValueError(f"got {len(digests)} digests and {len(small)} pictures")
    groups = np.zeros(len(small), np.int64)
    for number, places in enumerate(places_by_prompt(small, prompts)):
        groups[places] = number

    # Colours of blocks are no farther apart than pixels on average, so that most pairs are
    # excluded by a few numbers.
    blocks = _block_means(small)
    hashes = np.unique(np.array(digests), return_inverse=True)[1]
    flags = np.zeros((4, len(small)), bool)
    for place in range(len(small)):
        is_equal = hashes == hashes[place]
        is_equal[place] = False
        gaps = np.abs(blocks - blocks[place]).mean(axis=1)
        gaps[place] = np.inf
        for row, is_inside in ((0, groups == groups[place]), (2, groups != groups[place])):
            flags[row, place] = bool((is_equal & is_inside).any())
            # Some room for the rounding of float32.
            candidates = np.flatnonzero(is_inside & (gaps <= near + 1e-5))
            candidates = candidates[np.argsort(gaps[candidates], kind="stable")]
            flags[row + 1, place] = flags[row, place] or _any_near(small, place, candidates, near)
    return Duplicates(*flags)


def hash_pictures(pictures: Iterable[UInt8[np.ndarray, "H W 3"]]) -> list[bytes]:
    """Hashes of size and pixels."""
    return [
        hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).digest()
        for picture in pictures
    ]


def _block_means(small: UInt8[np.ndarray, "N S S 3"]) -> Float32[np.ndarray, "N D"]:
    """Mean colours of ``BLOCKS * BLOCKS`` equal blocks, in [0, 1]."""
    count, side = small.shape[:2]
    if side % BLOCKS:
        raise ValueError(f"the side must be a multiple of {BLOCKS}; got {side}")
    size = side // BLOCKS
    blocks = small.reshape(count, BLOCKS, size, BLOCKS, size, 3).mean(axis=(2, 4)) / 255
    return blocks.reshape(count, -1).astype(np.float32)


def _any_near(small: np.ndarray, place: int, candidates: np.ndarray, near: float) -> bool:
    """Whether a candidate is near; the likeliest come first, and the search ends at the first."""
    for start in range(0, len(candidates), BATCH):
        others = small[candidates[start : start + BATCH]]
        if (pixel_distances(small[place], others) <= near).any():
            return True
    return False


def duplicate_estimates(duplicates: Duplicates, prompts: Sequence[str]) -> Estimates:
    """Shares of pictures with a twin: means over prompts, since pictures of one go together."""
    flags = {
        "duplicates": duplicates.equal,
        "near_duplicates": duplicates.near,
        "duplicates_of_other_prompts": duplicates.equal_elsewhere,
        "near_duplicates_of_other_prompts": duplicates.near_elsewhere,
    }
    return {
        name: estimate([values[places].mean() for places in places_by_prompt(values, prompts)])
        for name, values in flags.items()
    }
