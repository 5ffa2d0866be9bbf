"""GenEval's rules on boxes made by hand, whose verdicts follow from the published facts."""

from __future__ import annotations

import math

import pytest

from corl_jax.suites.generation.geneval_prompts import OBJECT_NAMES
from corl_jax.suites.judging.geneval_detections import (
    Detection,
    Thresholds,
    box_overlap,
    counted,
)
from corl_jax.suites.judging.geneval_figures import summarize
from corl_jax.suites.judging.geneval_rules import judge, needing_colours, relative_positions


def one(name, score=0.95, x=0.0, y=0.0, colour="", side=10.0):
    """An object whose top left corner is at (x, y)."""
    return Detection(name, (x, y, x + side, y + side), score, colour)


def clause(name, count=1, **more):
    return {"class": name, "count": count} | more


CUP, CUPS = clause("cup"), clause("cup", 2)
RED_CUP = clause("cup", color="red")
COW_LEFT = clause("cow", position=["left of", 0])
FAR_RIGHT = {"x": 50.0}
# Tag, include, exclude, detections, verdict.
CASES = {
    "an object": ("single_object", [CUP], [], [one("cup")], True),
    "nothing": ("single_object", [CUP], [], [], False),
    "another object": ("single_object", [CUP], [], [one("cow")], False),
    "more than wanted": ("single_object", [CUP], [], [one("cup"), one("cup", x=30)], True),
    "just above .3": ("single_object", [CUP], [], [one("cup", 0.301)], True),
    "at .3": ("single_object", [CUP], [], [one("cup", 0.3)], False),
    "both": ("two_object", [CUP, clause("cow")], [], [one("cup"), one("cow")], True),
    "one of two": ("two_object", [CUP, clause("cow")], [], [one("cow")], False),
    # Counting has the higher threshold, for what must and for what must not be there.
    "two": ("counting", [CUPS], [clause("cup", 3)], [one("cup"), one("cup")], True),
    "one": ("counting", [CUPS], [clause("cup", 3)], [one("cup")], False),
    "three": ("counting", [CUPS], [clause("cup", 3)], [one("cup")] * 3, False),
    "a third at .9": (
        "counting", [CUPS], [clause("cup", 3)], [one("cup")] * 2 + [one("cup", 0.9)], True,
    ),
    "a second at .9": ("counting", [CUPS], [clause("cup", 3)], [one("cup"), one("cup", 0.9)], False),
    "a third at .31 elsewhere": (
        "two_object", [CUPS], [clause("cup", 3)], [one("cup")] * 2 + [one("cup", 0.31)], False,
    ),
    "excluded class": ("two_object", [CUP], [clause("cow")], [one("cup"), one("cow")], False),
    # The most certain object alone is looked at.
    "red": ("colors", [RED_CUP], [], [one("cup", colour="red")], True),
    "blue": ("colors", [RED_CUP], [], [one("cup", colour="blue")], False),
    "a red one less certain": (
        "colors", [RED_CUP], [], [one("cup", 0.6, colour="red"), one("cup", 0.7, colour="blue")],
        False,
    ),
    "a blue one less certain": (
        "colors", [RED_CUP], [], [one("cup", 0.8, colour="red"), one("cup", 0.7, colour="blue")],
        True,
    ),
    "two red": (
        "colors", [clause("cup", 2, color="red")], [],
        [one("cup", colour="red"), one("cup", colour="red", x=5)], True,
    ),
    "one of two red": (
        "colors", [clause("cup", 2, color="red")], [],
        [one("cup", colour="red"), one("cup", colour="white", x=5)], False,
    ),
    "bound": (
        "color_attr", [RED_CUP, clause("cow", color="blue")], [],
        [one("cup", colour="red"), one("cow", colour="blue")], True,
    ),
    "swapped": (
        "color_attr", [RED_CUP, clause("cow", color="blue")], [],
        [one("cup", colour="blue"), one("cow", colour="red")], False,
    ),
    "left": ("position", [CUP, COW_LEFT], [], [one("cup", **FAR_RIGHT), one("cow")], True),
    "right": ("position", [CUP, COW_LEFT], [], [one("cow", **FAR_RIGHT), one("cup")], False),
    "no target": ("position", [CUP, COW_LEFT], [], [one("cow")], False),
    "the most certain is elsewhere": (
        "position", [CUP, COW_LEFT], [],
        [one("cup", **FAR_RIGHT), one("cow", 0.6), one("cow", 0.7, x=90)], False,
    ),
    "a target of the wrong colour": (
        "position", [RED_CUP, COW_LEFT], [],
        [one("cup", colour="blue", **FAR_RIGHT), one("cow")], False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_verdicts(name):
    tag, include, exclude, detections, is_correct = CASES[name]
    specification = {"tag": tag, "include": include, "exclude": exclude, "prompt": name}
    verdict = judge(counted(detections, tag), specification)
    assert verdict.is_correct == is_correct, verdict.reasons
    assert bool(verdict.reasons) != is_correct


def test_reasons_say_what_is_missing():
    objects = counted([one("cup", colour="blue"), one("cow", x=90.0)], "position")
    specification = {"include": [CUPS, RED_CUP, COW_LEFT], "exclude": [clause("cow")]}
    assert judge(objects, specification).reasons == (
        "cup: 2 wanted, 1 there",
        "cup: 1 red wanted, 1 blue there",
        "cow: left of something that is not there",
        "cow: fewer than 1 wanted, 1 there",
    )
    met = {"include": [CUP, COW_LEFT]}
    assert judge(objects, met).reasons == ("cow: left of wanted, right of there",)


# Boxes of 10 by 10: the margin is .1 * (10 + 10) = 2 pixels along each axis.
@pytest.mark.parametrize(
    "x, y, expected",
    [
        (0, 0, set()),
        (2, 0, set()),
        (-2, 2, set()),
        # (x - 2) / x > .5 from 4 pixels on.
        (4, 0, set()),
        (4.1, 0, {"right of"}),
        (-4.1, 0, {"left of"}),
        (0, -4.1, {"above"}),
        (0, 4.1, {"below"}),
        (50, 50, {"right of", "below"}),
        (-50, -50, {"left of", "above"}),
        # 48 / |(50, y)| for x, (y - 2) / |(50, y)| for y.
        (50, 29, {"right of"}),
        (50, 33, {"right of", "below"}),
    ],
)
def test_margin_of_positions(x, y, expected):
    other = (100.0, 100.0, 110.0, 110.0)
    box = (100.0 + x, 100.0 + y, 110.0 + x, 110.0 + y)
    assert relative_positions(box, other) == expected


def test_large_boxes_have_a_large_margin():
    other = (0.0, 0.0, 100.0, 100.0)
    assert relative_positions((35.0, 0.0, 135.0, 100.0), other) == set()
    assert relative_positions((45.0, 0.0, 145.0, 100.0), other) == {"right of"}
    # Tall boxes have no margin to the side.
    assert relative_positions((3.0, 0.0, 4.0, 100.0), (0.0, 0.0, 1.0, 100.0)) == {"right of"}


def test_at_most_sixteen_of_a_class_and_the_most_certain_first():
    scores = [0.5 + i / 100 for i in range(20)]
    cups = counted([one("cup", score) for score in scores], "single_object")["cup"]
    assert [cup.score for cup in cups] == sorted(scores, reverse=True)[:16]


def test_overlaps_count_twice_unless_a_detector_needs_a_limit():
    cups = [one("cup", 0.9), one("cup", 0.8, x=1.0), one("cup", 0.7, x=9.0), one("cow", 0.6)]
    limited = Thresholds(score=0.3, counting=0.3, overlap=0.5)
    assert len(counted(cups, "counting")["cup"] if counted(cups, "counting") else ()) == 0
    assert len(counted(cups, "colors")["cup"]) == 3
    kept = counted(cups, "counting", limited)
    assert [cup.score for cup in kept["cup"]] == [0.9, 0.7] and len(kept["cow"]) == 1
    # Right and bottom pixels belong to a box: 11 by 11, of which 10 by 11 are shared.
    assert box_overlap(cups[0].box, cups[1].box) == pytest.approx(110 / (2 * 121 - 110))
    assert box_overlap((0, 0, 4, 4), (6, 6, 9, 9)) == 0


def test_colours_are_asked_of_what_the_rules_look_at():
    first, second = one("cup", 0.8), one("cup", 0.7)
    objects = counted([second, first, one("cow")], "colors")
    assert needing_colours(objects, {"include": [RED_CUP, clause("cow")]}) == [first]
    # Too few of them are wrong whatever their colours are.
    assert needing_colours(objects, {"include": [clause("cup", 3, color="red")]}) == []
    assert len(OBJECT_NAMES) == len(set(OBJECT_NAMES)) == 80 and "teddy bear" in OBJECT_NAMES


def test_overall_is_the_mean_of_tags_and_errors_are_over_prompts():
    verdicts = [("counting", "a", True)] * 4 + [("counting", "b", False)] * 4
    verdicts += [("colors", "c", True)] * 3 + [("colors", "c", False)]
    verdicts += [("colors", "d", True)] * 4
    metrics = summarize(verdicts)
    assert metrics["geneval/counting"] == {"value": 0.5, "stderr": pytest.approx(0.5), "n": 2}
    assert metrics["geneval/colors"]["value"] == 0.875
    assert metrics["geneval/colors"]["stderr"] == pytest.approx(0.125)
    overall = metrics["geneval"]
    assert overall["value"] == pytest.approx((0.5 + 0.875) / 2) and overall["n"] == 4
    assert overall["stderr"] == pytest.approx(math.hypot(0.5, 0.125) / 2)
    assert list(metrics) == ["geneval/counting", "geneval/colors", "geneval"]

    # A prompt alone has no spread, and other numbers of pictures weigh as the official mean does.
    uneven = summarize([("colors", "c", True), ("colors", "d", False), ("colors", "d", False)])
    assert uneven["geneval"]["value"] == pytest.approx(1 / 3)
    assert summarize(verdicts[:4], "other")["other"]["stderr"] is None
