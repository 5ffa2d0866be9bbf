"""The order of tasks that backward transfer prescribes: hand numbers, made results, and the page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.studies.comparison import Cell, Command, Study
from corl_jax.studies.forgetting import measure_forgetting
from corl_jax.studies.forgetting_section import render_order
from corl_jax.studies.study_page import render_study_page
from corl_jax.studies.task_order import (
    TaskOrder,
    backward_transfer,
    forgettability,
    prescribe_order,
)
from corl_jax.studies.verdicts import judge_claim

ARM = (Command("x", ("m",)),)
TWO = TaskOrder(
    before="base",
    alone={"answer": "answer_alone", "draw": "draw_alone"},
    columns={"answer": "right", "draw": "exact"},
    sequences={("answer", "draw"): "answer_draw", ("draw", "answer"): "draw_answer"},
    rivals=("joint",),
    score="both",
)
STUDY = Study(
    "Which first?",
    "The least forgettable.",
    dict.fromkeys(TWO.arms, ARM),
    ("right", "exact"),
    means={"both": ("right", "exact")},
    order=TWO,
)


def make_cells(**arms):
    """Cells of ``right`` and ``exact`` from percentages, the same three changes by seed for all."""
    cells = {}
    for arm, values in arms.items():
        right, exact = ([value / 100 + noise for noise in (-0.01, 0.0, 0.01)] for value in values)
        both = np.mean([right, exact], axis=0).tolist()
        columns = {"right": right, "exact": exact, "both": both}
        cells[arm] = {name: Cell.from_values(column) for name, column in columns.items()}
    return cells


ALONE = {"base": (50, 30), "answer_alone": (60, 29), "draw_alone": (47, 40)}
"""Drawing costs answers 3 points, and answers cost drawing 1."""


def test_forgettability_by_hand():
    transfer = backward_transfer(np.array([0.5, 0.3]), np.array([[0.6, 0.29], [0.47, 0.4]]))
    np.testing.assert_allclose(transfer, [[0.1, -0.01], [-0.03, 0.1]])
    np.testing.assert_allclose(forgettability(transfer), [0.03, 0.01])
    assert prescribe_order(("answer", "draw"), forgettability(transfer)) == ("draw", "answer")

    # A gain makes up for no loss, and what a task does to itself does not count.
    three = np.array([[-9.0, -1.0, 5.0], [-2.0, -9.0, -3.0], [4.0, 0.0, -9.0]])
    np.testing.assert_allclose(forgettability(three), [1.0, 0.5, 1.5])
    assert prescribe_order(("a", "b", "c"), forgettability(three)) == ("b", "a", "c")
    assert prescribe_order(("a", "b"), np.zeros(2)) == ("a", "b")


def test_the_figures_say_which_arm_is_prescribed():
    figures = measure_forgetting(STUDY, make_cells(**ALONE))
    assert (figures.order, figures.arm) == (("draw", "answer"), "draw_answer")
    assert (figures.reverse, figures.ranks, figures.rank) == ("answer_draw", (), None)
    # Training itself is the same by seed, so the changes have no error.
    means = [[cell.mean for cell in row] for row in figures.transfer]
    np.testing.assert_allclose(means, [[0.1, -0.01], [-0.03, 0.1]])
    assert figures.transfer[0][1].stderr == pytest.approx(0, abs=1e-12)
    assert measure_forgetting(STUDY, make_cells(base=(50, 30), draw_alone=(47, 40))) is None


@pytest.mark.parametrize(
    ("arms", "outcomes"),
    [
        ({}, ["not measured yet"]),
        (ALONE, ["not measured yet", "not measured yet"]),
        (
            ALONE | {"answer_draw": (52, 40), "draw_answer": (58, 38), "joint": (64, 42)},
            ["held", "contradicted"],
        ),
    ],
)
def test_the_claim_is_that_of_the_prescribed_order(arms, outcomes):
    verdicts = judge_claim(STUDY, make_cells(**arms))
    assert [it.outcome for it in verdicts] == outcomes
    if len(verdicts) == 2:
        assert verdicts[0].expectation == "draw_answer exceeds answer_draw in both"
        assert verdicts[1].expectation == "draw_answer exceeds joint in both"


def test_the_matrix_is_in_the_page_and_in_the_table():
    cells = make_cells(**ALONE, answer_draw=(62, 40), draw_answer=(52, 38))
    page = render_study_page("order", STUDY, cells, [], "a machine")
    # Strongest of its column, and a tenth of the strongest.
    assert '<td class="num heat gain" style="--heat:100%" data-label="answer">+10.0 ± 0.0' in page
    assert '<td class="num heat loss" style="--heat:10%" data-label="draw">-1.0 ± 0.0' in page
    words = "The least forgettable first: draw, then answer. Of 2 orders it has place 2 by both"
    assert words in page

    text = render_order(measure_forgetting(STUDY, cells), cells)
    assert "| draw | -3.0 ± 0.0 | +10.0 ± 0.0 |" in text and words in text
    assert "| forgettability | 3.0 | 1.0 |" in text
    assert text.endswith("* answer_draw 51.0 ± 0.6\n* draw_answer 45.0 ± 0.6")


def test_an_order_is_of_its_study_and_complete():
    with pytest.raises(UserError, match="got columns for answer, draw and 1 of 2 orders"):
        dataclasses.replace(TWO, sequences={("draw", "answer"): "draw_answer"})
    with pytest.raises(UserError, match="must name arms and columns of its study; got joint. Exp"):
        dataclasses.replace(STUDY, arms={arm: ARM for arm in STUDY.arms if arm != "joint"})
    with pytest.raises(UserError, match=r"a mean must have a name of its own .*; got 'both' of \("):
        dataclasses.replace(STUDY, means={"both": ("right", "wrong")})
