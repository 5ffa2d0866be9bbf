"""Which tokens of an image deserve the advantage of the whole image: one factor per token.

In: code vectors of all samples of a group, their advantages, and for ``third`` entropies and
log-ratios. Out: ``TokenFactors``, whose means are 1, so that they move the advantage between tokens
and do not change how much the task counts. NumPy in float64 on the host: it is little, and the same
on every mesh.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

CREDITS = ("uniform", "contrast", "third")
"""``uniform``: every token has the advantage of its image. ``contrast``: tokens that look like those
of better or worse samples have less of it (STAGE). ``third``: three tenths of the tokens have all of
it (GCPO)."""

NO_DIFFERENCE = 1e-6
"""A mean factor below it is rounding: samples that are equal have no token to tell them apart."""

MAX_LOG_RATIO = 0.5
"""Bound of a log-ratio in ``running_confidence``."""

Vectors = Float[np.ndarray, "B G T Z"]
PerToken = Float[np.ndarray, "B G T"]


@dataclasses.dataclass(frozen=True)
class TokenFactors:
    """What a token's part of the loss is multiplied with.

    Attributes:
      advantage: float32 ``[B, G, T]``, of its advantage; mean 1 over the samples that have one.
      kl: float32 ``[B, G, T]``, of its KL term; mean 1.
    """

    advantage: PerToken
    kl: PerToken


def group_similarity(vectors: Vectors, partners: Bool[np.ndarray, "B G G"]) -> PerToken:
    """Mean cosine of each token with those at its place in other samples of its group.

    Args:
      vectors: code vectors of the tokens, of any length above 0.
      partners: which samples each one is compared with; 0 comes out where there is none.
    """
    units = vectors.astype(np.float64)
    units = units / np.linalg.norm(units, axis=-1, keepdims=True)
    sums = np.einsum("bgh,bhtz->bgtz", partners.astype(np.float64), units)
    counts = np.maximum(partners.sum(-1), 1)[..., None]
    return np.einsum("bgtz,bgtz->bgt", units, sums) / counts


def opposites(advantages: Float[np.ndarray, "B G"]) -> Bool[np.ndarray, "B G G"]:
    """Which samples of a group have an advantage of the other sign; a 0 has no sign."""
    signs = np.sign(advantages)
    return signs[..., :, None] * signs[..., None, :] < 0


def others(vectors: Vectors) -> Bool[np.ndarray, "B G G"]:
    """All samples of a group but the sample itself."""
    groups, samples = vectors.shape[:2]
    return np.broadcast_to(~np.eye(samples, dtype=bool), (groups, samples, samples))


def contrast_factors(similarity: PerToken) -> tuple[PerToken, PerToken]:
    """STAGE (arXiv 2509.25027): factors of advantage and of KL term, before they are normalized.

    A token that samples with the other verdict share cannot be what decided: ``(1 - c) / 2`` of the
    advantage is left to it. Where samples are unlike, ``0.5 + 0.5 clip(1 + c, 0, 1)`` loosens the KL.

    Args:
      similarity: ``c``, the mean cosine with the samples of the other sign.
    """
    return (1 - similarity) / 2, 0.5 + 0.5 * np.clip(1 + similarity, 0, 1)


def third_mask(entropies: PerToken, similarity: PerToken) -> Bool[np.ndarray, "B G T"]:
    """GCPO (arXiv 2509.22485): the three tenths of the tokens of an image that are trained.

    They are the first tenth, which lays the image out; of the middle 80 % the tenth where the
    entropy changes most from place to place, the edges of things; and of the rest the tenth in which
    the samples of the group differ most. Ties go to the earlier token.

    Args:
      entropies: of the distribution of each token, of images that are square, row by row.
      similarity: mean cosine of each token with the others of its group at its place.
    """
    length = entropies.shape[-1]
    tenth, middle = max(length // 10, 1), 8 * length // 10
    chosen = np.zeros(entropies.shape, bool)
    chosen[..., :tenth] = True

    # Never twice the same token: what is chosen already ranks last.
    edges = entropy_gradient(entropies)
    outside = np.arange(length) >= tenth + middle
    _choose_lowest(chosen, np.where(outside, np.inf, -edges), tenth)

    # The samples of a group share places, whose cosine is the mean over all pairs.
    by_place = np.broadcast_to(similarity.mean(1, keepdims=True), similarity.shape)
    _choose_lowest(chosen, by_place, tenth)
    return chosen


def _choose_lowest(chosen: Bool[np.ndarray, "B G T"], values: PerToken, count: int) -> None:
    """Marks in ``chosen`` the ``count`` tokens with the lowest values among those not chosen yet."""
    ranked = np.argsort(np.where(chosen, np.inf, values), axis=-1, kind="stable")
    np.put_along_axis(chosen, ranked[..., :count], True, axis=-1)


def entropy_gradient(entropies: Float[np.ndarray, "... T"]) -> Float[np.ndarray, "... T"]:
    """Length of the gradient of the map of entropies, which is smoothed first.

    A place becomes the mean of itself and of its neighbours that were drawn before it: left, and
    the three above. Differences are central, at the borders one-sided.
    """
    side = round(entropies.shape[-1] ** 0.5)
    grid = entropies.astype(np.float64).reshape(*entropies.shape[:-1], side, side)
    borders = [(0, 0)] * (grid.ndim - 2) + [(1, 0), (1, 1)]
    padded, inside = np.pad(grid, borders), np.pad(np.ones_like(grid), borders)
    offsets = ((1, 1), (1, 0), (0, 0), (0, 1), (0, 2))

    def total(values: np.ndarray) -> np.ndarray:
        parts = (values[..., row : row + side, col : col + side] for row, col in offsets)
        return np.sum(list(parts), axis=0)

    rows, columns = np.gradient(total(padded) / total(inside), axis=(-2, -1))
    return np.hypot(rows, columns).reshape(entropies.shape)


def running_confidence(log_ratios: PerToken) -> PerToken:
    """GCPO's factor of the advantage: mean of ``exp(clip(log pi - log ref, +-.5))`` up to a token.

    No gradient flows through it, unlike in the authors' code, where the ratio to the reference
    thereby has a gradient of its own.
    """
    ratios = np.exp(np.clip(log_ratios.astype(np.float64), -MAX_LOG_RATIO, MAX_LOG_RATIO))
    return np.cumsum(ratios, -1) / np.arange(1, ratios.shape[-1] + 1)


def normalized(factors: PerToken, counts: Bool[np.ndarray, "B G"]) -> PerToken:
    """``factors`` divided by their mean over the samples that ``counts``; 0 where that is 0.

    The tokens of images all have one weight in the loss, so that the plain mean is the right one.
    """
    mean = factors[counts].mean() if counts.any() else 0.0
    scaled = factors / mean if mean > NO_DIFFERENCE else np.zeros_like(factors)
    return scaled.astype(np.float32)


def token_factors(
    credit: str,
    vectors: Vectors,
    advantages: Float[np.ndarray, "B G"],
    entropies: PerToken | None = None,
    log_ratios: PerToken | None = None,
) -> TokenFactors:
    """The factors of a step.

    Args:
      credit: ``contrast`` or ``third``.
      vectors: code vectors of the tokens of whole groups.
      advantages: of the samples.
      entropies, log_ratios: for ``third``, of the policy that sampled; the ratio is to the
        reference policy.
    """
    has_advantage = advantages != 0
    everywhere = np.ones_like(has_advantage)
    if credit == "contrast":
        similarity = group_similarity(vectors, opposites(advantages))
        advantage, kl = contrast_factors(similarity)
    elif entropies is None or log_ratios is None:
        raise ValueError("third needs entropies and log-ratios")
    else:
        mask = third_mask(entropies, group_similarity(vectors, others(vectors)))
        advantage, kl = mask * running_confidence(log_ratios), mask.astype(np.float64)
    return TokenFactors(normalized(advantage, has_advantage), normalized(kl, everywhere))
