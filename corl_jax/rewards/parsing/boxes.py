"""Boxes in text and how well two lists of them agree. In: strings; out: boxes and a score in [0, 1].

A box is ``[x1, y1, x2, y2]``, left, top, right and bottom in any unit that both lists share.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from jaxtyping import Float

from corl_jax.rewards.parsing.answers import normalise
from corl_jax.rewards.parsing.classes import plain_class

MOST = 1000
"""Boxes in one list; a text with more is not read."""
N = r"\s*([-+]?[0-9]{1,7}(?:\.[0-9]{0,9})?)\s*"
FOUR = re.compile(rf"{N},{N},{N},{N}")
ROUND = re.compile(rf"\({N},{N},{N},{N}\)")
PAIRS = re.compile(rf"[(\[]{N},{N}[)\]]\s{{0,9}},?\s{{0,9}}[(\[]{N},{N}[)\]]")
OBJECT = re.compile(r"\{[^{}]*\}")
INNERMOST = re.compile(r"\[([^\[\]]*)\]")
LABEL = re.compile(
    r"""["']?\b(?:label|name|class|category|object)["']?\s{0,9}:\s{0,9}["']([^"']*)["']""", re.I
)
NO_LABEL = (
    "position",
    "bbox",
    "bbox_2d",
    "box",
    "boxes",
    "coordinates",
    "object",
    "objects",
    "answer",
)
NOTHING = ("none", "nothing", "no objects", "no object", "no boxes")


@dataclasses.dataclass(frozen=True)
class Box:
    """``corners`` x1, y1, x2, y2 with x1 < x2 and y1 < y2; ``label``, a plain class name, or empty for none given."""

    corners: tuple[float, ...]
    label: str = ""


def read_boxes(text: str) -> list[Box] | None:
    """The boxes that a text lists, or None if it cannot be read as such a list.

    Read are JSON or Python lists of lists or of objects (``{'Position': [..], 'Confidence': 1}``, ``{"bbox_2d": [..],
    "label": "cat"}``, ``{"cat": [..]}``), a box after its label (``cat: [..]``), round brackets, and two corners
    (``(x1, y1), (x2, y2)``). ``[]`` and ``none`` are the empty list. Confidences are not looked at. One bracket with
    anything but four numbers in order, or one left open, and the text is not read.
    """
    if normalise(text) in NOTHING:
        return []
    text = ROUND.sub(r"[\1,\2,\3,\4]", PAIRS.sub(r"[\1,\2,\3,\4]", text))
    if text.count("[") != text.count("]") or text.count("{") != text.count("}") or "[" not in text:
        return None
    boxes: list[Box] = []
    for part in [*OBJECT.findall(text), OBJECT.sub("", text)]:
        named, end = LABEL.search(part) if part.startswith("{") else None, 0
        for bracket in INNERMOST.finditer(part):
            before, end = part[max(end, bracket.start() - 80) : bracket.start()], bracket.end()
            if not bracket.group(1).strip(
                " ,;\n"
            ):  # an empty list, or one of objects that are read already
                continue
            found = FOUR.fullmatch(bracket.group(1))
            x1, y1, x2, y2 = map(float, found.groups()) if found else (0, 0, 0, 0)
            if x1 >= x2 or y1 >= y2 or len(boxes) == MOST:
                return None
            boxes.append(
                Box((x1, y1, x2, y2), plain_class(named.group(1)) if named else _label(before))
            )
    return boxes


def _label(before: str) -> str:
    """The label in the text before a box: its last item, unless that only says that a box comes."""
    said = re.split(r"[,;\n\[\]{}]", re.sub(r"<[^<>]{0,20}>", " ", before))[-1]
    words = [word for word in normalise(said).split() if not word.isdigit()]
    return "" if not words or " ".join(words) in NO_LABEL else plain_class(" ".join(words))


def overlaps(
    left: Float[np.ndarray, "N 4"], right: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every pair of boxes."""
    corner = np.maximum(left[:, None, :2], right[None, :, :2])
    sides = np.clip(np.minimum(left[:, None, 2:], right[None, :, 2:]) - corner, 0, None)
    shared = sides.prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (left, right)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def box_score(answer: str, reference: str) -> float:
    """Sum of the IoU of matched boxes over the larger number of boxes; 1 if there are none to find and none named.

    Pairs are matched one to one, the largest IoU first, as detection is scored since PASCAL VOC; the IoU as a reward is
    Visual-RFT's (arXiv 2503.01785). Two boxes match only if their labels are equal or one has none. Missed and
    invented boxes both cost, through the denominator. An answer that cannot be read earns 0.

    Raises:
      ValueError: a reference that cannot be read.
    """
    expected, named = read_boxes(reference), read_boxes(answer)
    if expected is None:
        raise ValueError(f"the reference {reference[:80]!r} is no list of boxes [x1, y1, x2, y2]")
    if not named or not expected:
        return float(named == expected)
    score = overlaps(
        np.array([box.corners for box in named]), np.array([box.corners for box in expected])
    )
    score *= [[not a.label or not b.label or a.label == b.label for b in expected] for a in named]
    rows, columns = np.nonzero(score)
    total, used_rows, used_columns = 0.0, set(), set()
    for pair in np.argsort(-score[rows, columns], kind="stable"):
        i, j = rows[pair], columns[pair]
        if i not in used_rows and j not in used_columns:
            used_rows.add(i)
            used_columns.add(j)
            total += float(score[i, j])
    return total / max(len(named), len(expected))
