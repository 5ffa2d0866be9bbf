"""GenEval's rules: from the objects that a detector found to right or wrong, with reasons.

The facts are those of ``evaluation/evaluate_images.py`` and ``summary_scores.py`` at
github.com/djghosh13/geneval: thresholds, at most 16 objects of a class, no suppression of boxes that
overlap, the most certain objects alone are looked at for colour and position.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corl_jax.evals.statistics import Estimates, estimate
from corl_jax.suites.generation.geneval_prompts import COLOURS, TAGS

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
"""Scores above which an object counts; the second one for prompts that ask for a number."""
MAX_OBJECTS = 16
"""Most objects of one class that count."""
POSITION_MARGIN = 0.1
"""Share of the sizes of two objects by which their centres may differ and mean nothing."""

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
class Verdict:
    """Whether a picture shows what its prompt asks for, and what is missing if not."""

    is_correct: bool
    reasons: tuple[str, ...]


def counted(detections: Sequence[Detection], tag: str) -> dict[str, tuple[Detection, ...]]:
    """The detections that count, by class and from the most certain to the least."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    by_name: dict[str, list[Detection]] = collections.defaultdict(list)
    for detection in sorted(detections, key=lambda one: one.score, reverse=True):
        if detection.score > threshold and len(by_name[detection.name]) < MAX_OBJECTS:
            by_name[detection.name].append(detection)
    return {name: tuple(group) for name, group in by_name.items() if group}


def needing_colours(
    objects: Mapping[str, Sequence[Detection]], specification: Mapping[str, Any]
) -> list[Detection]:
    """The detections whose colour the verdict depends on, each once."""
    needed: list[Detection] = []
    for clause in specification["include"]:
        found = objects.get(clause["class"], ())[: clause["count"]]
        if "color" in clause and len(found) == clause["count"]:
            needed += [one for one in found if one not in needed]
    return needed


def judge(objects: Mapping[str, Sequence[Detection]], specification: Mapping[str, Any]) -> Verdict:
    """Holds what counts in a picture against what its prompt asks for.

    Args:
      objects: from ``counted``, those of ``needing_colours`` with their colours.
      specification: a line of ``evaluation_metadata.jsonl``, see ``geneval_prompts``.
    """
    reasons: list[str] = []
    # The objects of each clause that was met, at which later clauses may point.
    groups: list[Sequence[Detection] | None] = []
    for clause in specification["include"]:
        found = objects.get(clause["class"], ())[: clause["count"]]
        reason = _unmet(clause, found, groups)
        groups.append(None if reason else found)
        reasons += [reason] if reason else []

    for clause in specification.get("exclude", ()):
        number = len(objects.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(
                f"{clause['class']}: fewer than {clause['count']} wanted, {number} there"
            )
    return Verdict(not reasons, tuple(reasons))


def _unmet(
    clause: Mapping[str, Any],
    found: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
) -> str:
    """Why a clause is not met; "" if it is."""
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"{name}: {count} wanted, {len(found)} there"

    if "color" in clause:
        colours = [one.colour for one in found]
        if colours.count(clause["color"]) < count:
            seen = ", ".join(f"{colours.count(c)} {c}" for c in COLOURS if c in colours)
            return f"{name}: {count} {clause['color']} wanted, {seen} there"

    if "position" in clause:
        relation, target = clause["position"]
        targets = groups[target]
        if targets is None:
            return f"{name}: {relation} something that is not there"
        for one in found:
            for other in targets:
                relations = relative_positions(one.box, other.box)
                if relation not in relations:
                    seen = " and ".join(sorted(relations)) or "no clear side"
                    return f"{name}: {relation} wanted, {seen} there"
    return ""


def relative_positions(box: Box, other: Box) -> set[str]:
    """Where ``box`` is, seen from ``other``: none, one or two of ``RELATIONS``.

    The distance of the centres along each axis is shortened by ``POSITION_MARGIN`` of both sizes. A
    side counts if what is left is more than half of the distance of the centres.
    """
    corners = np.array([box, other], np.float64).reshape(2, 2, 2)
    centres = corners.mean(1)
    sizes = np.abs(corners[:, 1] - corners[:, 0]).sum(0)

    offset = centres[0] - centres[1]
    clear = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_MARGIN * sizes, 0)
    if np.all(np.abs(clear) < 1e-3):
        return set()
    x, y = clear / np.linalg.norm(offset)
    sides = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {side for side, holds in sides.items() if holds}


def summarize(verdicts: Sequence[tuple[str, str, bool]]) -> Estimates:
    """GenEval's figures.

    Args:
      verdicts: tag, prompt id and verdict of every picture.

    Returns:
      ``geneval/TAG``, the share of right pictures, and ``geneval``, the mean of the tags that there
      are. Standard errors are those of means over prompts, whose pictures depend on each other;
      ``n`` counts prompts.

    Raises:
      ValueError: there are no verdicts.
    """
    metrics: Estimates = {}
    for tag in TAGS:
        by_prompt: dict[str, list[bool]] = collections.defaultdict(list)
        for verdict_tag, prompt_id, is_correct in verdicts:
            if verdict_tag == tag:
                by_prompt[prompt_id].append(is_correct)
        if by_prompt:
            shares = [float(np.mean(group)) for group in by_prompt.values()]
            pictures = [is_correct for group in by_prompt.values() for is_correct in group]
            metrics[f"geneval/{tag}"] = estimate(shares) | {"value": float(np.mean(pictures))}

    if not metrics:
        raise ValueError("verdicts must not be empty, since an empty sequence has no mean")
    parts = list(metrics.values())
    errors = [part["stderr"] for part in parts if part["stderr"] is not None]
    # One prompt of a tag alone says nothing about the spread.
    stderr = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    overall = float(np.mean([part["value"] for part in parts]))
    number = sum(part["n"] for part in parts)
    return metrics | {"geneval": {"value": overall, "stderr": stderr, "n": number}}
