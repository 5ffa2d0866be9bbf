"""Boxes in texts, and how well two lists of them agree.

A box is ``[x1, y1, x2, y2]``: left, top, right and bottom, in any unit that both lists share.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from jaxtyping import Float

from corl_jax.core.errors import UserError
from corl_jax.data.answers.words import answer_words, normalize_answer
from corl_jax.rewards.parsing.classes import normalize_class

MAX_BOXES = 1000
"""Boxes in one list; a text with more cannot be read."""
LABEL_WINDOW = 80
"""Characters before a box in which its label is looked for."""

# The number of digits is bounded, so that a long run of digits cannot make a match slow.
COORDINATE = r"\s*([-+]?[0-9]{1,7}(?:\.[0-9]{0,9})?)\s*"
FOUR_COORDINATES = re.compile(rf"{COORDINATE},{COORDINATE},{COORDINATE},{COORDINATE}")
# "(x1, y1, x2, y2)"
ROUND_BOX = re.compile(rf"\({COORDINATE},{COORDINATE},{COORDINATE},{COORDINATE}\)")
# "(x1, y1), (x2, y2)"
TWO_CORNERS = re.compile(
    rf"[(\[]{COORDINATE},{COORDINATE}[)\]]\s{{0,9}},?\s{{0,9}}[(\[]{COORDINATE},{COORDINATE}[)\]]"
)
# A JSON object without further objects inside.
OBJECT = re.compile(r"\{[^{}]*\}")
# A list without further lists inside: the only kind that can hold four numbers.
INNERMOST_BRACKET = re.compile(r"\[([^\[\]]*)\]")
# "label": "cat"
LABEL_FIELD = re.compile(
    r"""["']?\b(?:label|name|class|category|object)["']?\s{0,9}:\s{0,9}["']([^"']*)["']""", re.I
)
# Words before a box that only announce it.
NOT_A_LABEL = (
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
# Texts that say that there are no boxes.
EMPTY_LIST = ("none", "nothing", "no objects", "no object", "no boxes")


@dataclasses.dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
      corners: x1, y1, x2, y2 with x1 < x2 and y1 < y2.
      label: the normalized class name, or empty if the text gives none.
    """

    corners: tuple[float, ...]
    label: str = ""


def read_boxes(text: str) -> list[Box] | None:
    """The boxes that a text lists, or None if the text is not such a list.

    These forms are read: JSON or Python lists of lists or of objects (``{'Position': [..],
    'Confidence': 1}``, ``{"bbox_2d": [..], "label": "cat"}``, ``{"cat": [..]}``), a box after its
    label (``cat: [..]``), round brackets, and two corners (``(x1, y1), (x2, y2)``). ``[]`` and
    ``none`` are the empty list. Confidences are ignored. A text with a bracket that does not hold
    four numbers in order, or with a bracket that is not closed, is not a list of boxes.
    """
    if normalize_answer(text) in EMPTY_LIST:
        return []

    # Other notations become square brackets.
    text = TWO_CORNERS.sub(r"[\1,\2,\3,\4]", text)
    text = ROUND_BOX.sub(r"[\1,\2,\3,\4]", text)
    if text.count("[") != text.count("]") or text.count("{") != text.count("}") or "[" not in text:
        return None

    # Objects come first, since their fields may hold the label; then what is outside of objects.
    boxes: list[Box] = []
    for part in [*OBJECT.findall(text), OBJECT.sub("", text)]:
        label_field = LABEL_FIELD.search(part) if part.startswith("{") else None
        end = 0
        for bracket in INNERMOST_BRACKET.finditer(part):
            text_before = part[max(end, bracket.start() - LABEL_WINDOW) : bracket.start()]
            end = bracket.end()

            # An empty list, or a list of objects that are read already.
            if not bracket.group(1).strip(" ,;\n"):
                continue

            corners = _read_corners(bracket.group(1))
            if corners is None or len(boxes) == MAX_BOXES:
                return None
            label = normalize_class(label_field.group(1)) if label_field else _label(text_before)
            boxes.append(Box(corners, label))
    return boxes


def _read_corners(text: str) -> tuple[float, ...] | None:
    """The four coordinates in a bracket, or None if they are not those of a box."""
    match = FOUR_COORDINATES.fullmatch(text)
    if match is None:
        return None
    x1, y1, x2, y2 = map(float, match.groups())
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _label(text_before: str) -> str:
    """The label in the text before a box: its last item, unless that only announces a box."""
    # "<ref>cat</ref><box>" becomes "cat". Of "1. cat" the number goes.
    without_tags = re.sub(r"<[^<>]{0,20}>", " ", text_before)
    last_item = re.split(r"[,;\n\[\]{}]", without_tags)[-1]
    words = [word for word in answer_words(last_item) if any(map(str.isalpha, word))]
    name = " ".join(words)
    return "" if not name or name in NOT_A_LABEL else normalize_class(name)


def pairwise_iou(
    boxes: Float[np.ndarray, "N 4"], other_boxes: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every pair of boxes."""
    top_left = np.maximum(boxes[:, None, :2], other_boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], other_boxes[None, :, 2:])
    intersection = np.clip(bottom_right - top_left, 0, None).prod(-1)

    # The union is the sum of both areas minus the intersection.
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    other_areas = (other_boxes[:, 2:] - other_boxes[:, :2]).prod(-1)
    return intersection / (areas[:, None] + other_areas[None] - intersection)


def box_score(answer: str, reference_answer: str) -> float:
    """Sum of the IoU of matched boxes over the larger number of boxes.

    Boxes are matched one to one, the largest IoU first, as detection is evaluated since PASCAL VOC;
    the IoU as a reward is Visual-RFT's (arXiv 2503.01785). Two boxes match only if their labels are
    equal or one has none. Missed and invented boxes both cost, through the denominator. Two empty
    lists give 1, and an answer that is not a list of boxes gives 0.

    Raises:
      UserError: the reference answer is not a list of boxes.
    """
    expected, predicted = read_boxes(reference_answer), read_boxes(answer)
    if expected is None:
        raise UserError(
            "the reference answer must be a list of boxes [x1, y1, x2, y2]; "
            f"got {reference_answer[:80]!r}. Correct the record's answer."
        )
    # Two empty lists agree; one empty list has nothing to match.
    if not predicted or not expected:
        return float(predicted == expected)

    # The IoU of every pair, 0 where the labels contradict each other.
    iou = pairwise_iou(
        np.array([box.corners for box in predicted]), np.array([box.corners for box in expected])
    )
    iou *= [[_labels_agree(box, target) for target in expected] for box in predicted]

    # Greedy matching: go through the pairs from the largest IoU down, use each box at most once.
    rows, columns = np.nonzero(iou)
    total = 0.0
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for pair in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = rows[pair], columns[pair]
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            total += float(iou[row, column])
    return total / max(len(predicted), len(expected))


def _labels_agree(box: Box, target: Box) -> bool:
    """Whether two boxes have the same label, or one has none."""
    return not box.label or not target.label or box.label == target.label
