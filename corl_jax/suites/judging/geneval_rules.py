"""GenEval's rules: from the objects that count in a picture to right or wrong, with reasons.

The facts are those of ``evaluate`` and ``relative_position`` in ``evaluation/evaluate_images.py`` at
github.com/djghosh13/geneval: the most certain objects alone are looked at for colour and position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corl_jax.suites.generation.geneval_prompts import COLOURS
from corl_jax.suites.judging.geneval_detections import Box, Detection

POSITION_MARGIN = 0.1
"""Share of the sizes of two objects by which their centres may differ and mean nothing."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its prompt asks for, and what is missing if not."""

    is_correct: bool
    reasons: tuple[str, ...]


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
