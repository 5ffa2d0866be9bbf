"""Objects that a detector found in a picture, and which of them count for GenEval.

The facts are those of ``evaluate_image`` in ``evaluation/evaluate_images.py`` at
github.com/djghosh13/geneval: thresholds, at most 16 objects of a class, and no suppression of boxes
that overlap, for which other detectors need a limit.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

MAX_OBJECTS = 16
"""Most objects of one class that count."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels from the top left."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """An object in a picture.

    Attributes:
      name: its class.
      box: where it is.
      score: how certain that is, 0 to 1.
      colour: one of ``COLOURS``; "" where nobody has looked.
    """

    name: str
    box: Box
    score: float
    colour: str = ""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Which detections count.

    Attributes:
      score: an object counts above it.
      counting: the same for prompts that ask for a number.
      overlap: intersection over union with a more certain object of its class from which on a
        detection is the same object; at 1 none is.
    """

    score: float
    counting: float
    overlap: float


OFFICIAL_THRESHOLDS = Thresholds(score=0.3, counting=0.9, overlap=1.0)
"""Of the official judge, for Mask2Former."""


def counted(
    detections: Sequence[Detection], tag: str, thresholds: Thresholds = OFFICIAL_THRESHOLDS
) -> dict[str, tuple[Detection, ...]]:
    """The detections that count, by class and from the most certain to the least.

    Args:
      detections: in any order.
      tag: of the prompt.
      thresholds: those of Mask2Former, or of another detector.
    """
    least = thresholds.counting if tag == "counting" else thresholds.score
    by_name: dict[str, list[Detection]] = collections.defaultdict(list)
    for detection in sorted(detections, key=lambda one: one.score, reverse=True):
        if detection.score > least:
            by_name[detection.name].append(detection)
    # A detector that finds an object several times must not fill the limit with one of them.
    return {
        name: _apart(group, thresholds.overlap)[:MAX_OBJECTS] for name, group in by_name.items()
    }


def _apart(group: Sequence[Detection], overlap: float) -> tuple[Detection, ...]:
    """Detections without those that overlap a more certain one by ``overlap`` or more."""
    kept: list[Detection] = []
    for one in group:
        if overlap == 1 or all(box_overlap(one.box, other.box) < overlap for other in kept):
            kept.append(one)
    return tuple(kept)


def box_overlap(box: Box, other: Box) -> float:
    """Intersection over union of two boxes, whose right and bottom pixels belong to them."""
    shared = (*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:]))
    areas = [
        max(right - left + 1, 0) * max(bottom - top + 1, 0)
        for left, top, right, bottom in (box, other, shared)
    ]
    union = areas[0] + areas[1] - areas[2]
    return areas[2] / union if union else 0.0
