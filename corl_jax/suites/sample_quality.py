"""Do samples differ? Diversity within a prompt and use of the codebook, so that collapse shows.

A policy that has learned to please a reward may draw one picture over and over: pictures of a
prompt become alike, then pictures of different prompts, and few codes are left. ``duplicates`` has
pictures that are (nearly) equal.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float64, Integer, UInt8
from PIL import Image

from corl_jax.data.images import resize_image
from corl_jax.evals.statistics import Estimate, Estimates, estimate

SIDE = 32
"""Side in pixels at which pictures are compared, so that fine noise does not count as variety."""


def shrink_pictures(
    pictures: Iterable[UInt8[np.ndarray, "H W 3"]], side: int = SIDE
) -> UInt8[np.ndarray, "N side side 3"]:
    """Pictures of any sizes at one small size, by averages over areas.

    Raises:
      ValueError: there is none.
    """
    small = [resize_image(picture, (side, side), Image.Resampling.BOX) for picture in pictures]
    if not small:
        raise ValueError("pictures must not be empty")
    return np.stack(small)


def pixel_distances(
    picture: UInt8[np.ndarray, "S S 3"], others: UInt8[np.ndarray, "N S S 3"]
) -> Float64[np.ndarray, " N"]:
    """Mean absolute difference of pixels, from 0 (equal) to 1 (black and white)."""
    difference = np.abs(others.astype(np.int16) - picture.astype(np.int16))
    return difference.reshape(len(others), -1).mean(axis=1) / 255


def token_distances(
    tokens: Integer[np.ndarray, " S"], others: Integer[np.ndarray, "N S"]
) -> Float64[np.ndarray, " N"]:
    """Share of positions whose image tokens differ."""
    return (others != tokens).mean(axis=1)


def diversity(
    samples: np.ndarray,
    prompts: Sequence[str],
    distances: Callable[[np.ndarray, np.ndarray], np.ndarray] = pixel_distances,
) -> Float64[np.ndarray, " N"]:
    """Mean distance of each sample to the others of its prompt; NaN where it is the only one.

    The mean over the samples of a prompt is the mean distance of its pairs.

    Args:
      samples: ``[N, ...]``: small pictures, or image tokens.
      prompts: of the samples, in any order.
      distances: of one sample to several.

    Raises:
      ValueError: another number of prompts than of samples.
    """
    result = np.full(len(samples), np.nan)
    for places in places_by_prompt(samples, prompts):
        for place in places if len(places) > 1 else ():
            # Its distance to itself is 0, and counts as no pair.
            row = distances(samples[place], samples[places])
            result[place] = row.sum() / (len(places) - 1)
    return result


def places_by_prompt(samples: np.ndarray, prompts: Sequence[str]) -> list[list[int]]:
    """Places of the samples of each prompt.

    Raises:
      ValueError: another number of prompts than of samples.
    """
    if len(samples) != len(prompts):
        raise ValueError(f"got {len(samples)} samples and {len(prompts)} prompts")
    groups = collections.defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[prompt].append(place)
    return list(groups.values())


def diversity_estimate(values: np.ndarray, prompts: Sequence[str]) -> Estimates:
    """``{"diversity": ...}``: the mean over prompts of what ``diversity`` returns; maybe empty."""
    means = [values[places].mean() for places in places_by_prompt(values, prompts)]
    defined = [mean for mean in means if np.isfinite(mean)]
    return {"diversity": estimate(defined)} if defined else {}


@dataclasses.dataclass(frozen=True)
class CodeUsage:
    """Which codes of a codebook samples use.

    Attributes:
      distinct: how many codes occur.
      share: of the codebook.
      perplexity: ``exp(H)`` of the distribution of codes, from 1 (always the same) to the size of
        the codebook (all alike).
    """

    distinct: int
    share: float
    perplexity: float


def code_usage(tokens: Integer[np.ndarray, "N S"], codebook_size: int) -> CodeUsage:
    """The use of a codebook by image tokens.

    Raises:
      ValueError: there are no tokens, or some are no codes.
    """
    if not tokens.size or tokens.min() < 0 or tokens.max() >= codebook_size:
        span = f"{tokens.min()}..{tokens.max()}" if tokens.size else "none"
        raise ValueError(f"tokens must be codes 0..{codebook_size - 1}; got {span}")
    counts = np.bincount(tokens.ravel(), minlength=codebook_size)
    shares = counts[counts > 0] / tokens.size
    entropy = -(shares * np.log(shares)).sum()
    return CodeUsage(len(shares), len(shares) / codebook_size, float(np.exp(entropy)))


def code_estimates(usage: CodeUsage, pictures: int) -> Estimates:
    """``codes_used``, a share of the codebook, and ``code_perplexity``, without standard errors."""
    values = {"codes_used": usage.share, "code_perplexity": usage.perplexity}
    return {name: Estimate(value=value, stderr=None, n=pictures) for name, value in values.items()}
