"""Rules of benchmarks on answers with a known verdict, and figures computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corl_jax.suites.benchmarks import benchmarks
from corl_jax.suites.questions.question import Question
from corl_jax.suites.results import SuiteRecord
from corl_jax.suites.scoring.aggregates import (
    cluster_estimates,
    mean_estimate,
    mme_score,
    pope_counts,
    share_of_clusters,
    wemath_score,
)
from corl_jax.suites.scoring.choices import named_option
from corl_jax.suites.scoring.numbers import same_mathvision_answer, same_mathvista_answer
from corl_jax.suites.scoring.yes_no import YesNoCounts, pope_answer, vlmevalkit_answer

CHOICES = {"A": "red", "B": "light blue", "C": "cat"}


@pytest.mark.parametrize(
    "answer, option",
    [
        ("B", "B"),
        ("(B) light blue", "B"),
        ("The answer is B.", "B"),
        ("B. It is blue, as one sees.", ""),  # not among the last words
        ("The correct answer is **C**. Here is why: it has fur.", "C"),
        ("A or B", ""),
        ("It is light blue", "B"),
        ("LIGHT BLUE", "B"),
        ("red or light blue", ""),
        ("Z", "Z"),
        ("Cannot determine the answer", "Z"),
        ("", ""),
        ("red " + "word " * 20, ""),  # longer than all options twice
    ],
)
def test_the_option_that_an_answer_names(answer, option):
    assert named_option(answer, CHOICES) == option


@pytest.mark.parametrize(
    "text, pope, vlmevalkit",
    [
        ("Yes, there is.", "yes", "yes"),
        ("No, there is not.", "no", "no"),
        ("There is not. Yes.", "no", "yes"),  # the first sentence counts
        ("NO", "yes", "no"),  # POPE's rule knows No and no alone
        ("a cat", "yes", "unknown"),
        ("yes and no", "no", "unknown"),
        ("", "yes", "unknown"),
    ],
)
def test_yes_and_no(text, pope, vlmevalkit):
    assert (pope_answer(text), vlmevalkit_answer(text)) == (pope, vlmevalkit)


def test_counts_of_yes_and_no_by_hand():
    counts = YesNoCounts.of(["yes", "yes", "no", "no", "yes"], ["yes", "no", "no", "yes", "yes"])
    assert counts == YesNoCounts(true_yes=2, false_yes=1, true_no=1, false_no=1)
    assert counts.precision == counts.recall == counts.f1 == 2 / 3
    assert YesNoCounts.of(["no"], ["no"]).f1 == 0


@pytest.mark.parametrize(
    "answer, reference, answer_type, is_same",
    [
        ("12", "12", "integer", True),
        (" 12 ", "12", "integer", True),
        ("12.0", "12", "integer", False),
        ("1.20", "1.2", "float", True),
        ("about 1.2", "1.2", "float", False),
        ("[1, 2]", "[1, 2]", "list", True),
    ],
)
def test_free_answers_of_mathvista(answer, reference, answer_type, is_same):
    assert same_mathvista_answer(answer, reference, answer_type) is is_same


@pytest.mark.parametrize(
    "answer, reference, is_same",
    [
        ("6", "6", True),
        ("6.0", "6", True),
        ("1/2", r"\frac{1}{2}", True),
        (r"2\sqrt{3}", "3.46410161514", True),
        ("3^2", "9", True),
        ("D", "d", True),
        ("6 cm", "6", False),
        ("9**9**9**9", "1", False),
        ("__import__('os')", "1", False),
        ("1/0", "1", False),
    ],
)
def test_free_answers_of_mathvision(answer, reference, is_same):
    assert same_mathvision_answer(answer, reference) is is_same


def make_question(answer, choices=None, **facts):
    return Question("1", "1", "?", choices or {}, "", answer, "", (), facts, "line 1")


@pytest.mark.parametrize(
    "suite, question, text, correct",
    [
        ("pope", make_question("yes"), "Yes.", 1),
        ("pope", make_question("no"), "Yes.", 0),
        ("mme", make_question("Yes"), "yes", 1),
        ("mme", make_question("Yes"), "of course", 0),
        ("mmmu", make_question("B", CHOICES), "B", 1),
        ("mmmu", make_question("12"), "It is 12", 1),
        ("mmmu", make_question("12"), "13", 0),
        ("mmmu_pro", make_question("C", CHOICES), "cat", 1),
        ("mmmu_pro_vision", make_question("A", {"A": "1", "B": "2"}), "A", 1),
        ("mmstar", make_question("A", CHOICES), "B", 0),
        ("mmbench", make_question("A", CHOICES), "<think>B</think><answer>A</answer>", 1),
        ("mathvista", make_question("8/11", {"A": "3/11", "B": "8/11"}), "(B)", 1),
        ("mathvista", make_question("14", answer_type="integer"), "14", 1),
        ("mathverse", make_question("14"), "14", 1),
        ("mathverse", make_question("14"), "L = 14", 0),
        ("mathvision", make_question("C", CHOICES), "C", 1),
        ("mathvision", make_question("0.5"), r"\frac{1}{2}", 1),
        ("logicvista", make_question("A, C"), "C A", 1),
        ("logicvista", make_question("A, C"), "A", 0),
        ("wemath", make_question("B", CHOICES), "B", 1),
        ("table", make_question("No"), "no.", 1),
        ("table", make_question("Two"), " two", 1),
    ],
)
def test_scores_of_every_benchmark(suite, question, text, correct):
    assert benchmarks[suite].scores(question, text)["correct"] == correct


def test_mmvet_needs_a_judge():
    assert not benchmarks["mmvet"].scores(make_question("x"), "x") and benchmarks["mmvet"].judge


def record(cluster, correct, category="", number=0, reference="", **scores):
    return SuiteRecord(
        f"{cluster}/{number}",
        cluster,
        category,
        "",
        reference,
        "",
        "",
        {"correct": correct, **scores},
    )


def test_pope_counts_read_what_the_rules_said():
    records = [
        record("a", 1, reference="yes", said_yes=1.0),
        record("a", 0, reference="no", said_yes=1.0),
        record("b", 1, reference="no", said_yes=0.0),
    ]
    assert pope_counts(records) == YesNoCounts(1, 1, 1, 0)


def test_mme_adds_accuracy_and_pairs_by_hand():
    records = [
        record("p1", 1, "count"),
        record("p1", 1, "count"),
        record("p2", 1, "count"),
        record("p2", 0, "count"),
        record("p3", 1, "OCR"),
        record("p3", 1, "OCR"),
        record("p4", 0, "code_reasoning"),
    ]
    # count: 75 + 50; OCR: 100 + 100.
    assert mme_score(records, ("count", "OCR", "color")) == pytest.approx(325)
    assert share_of_clusters(records) == 0.5


def test_wemath_by_hand():
    def problem(name, first, second, whole):
        return [
            record(name, first, "2steps_1"),
            record(name, second, "2steps_2"),
            record(name, whole, "2steps_multi"),
        ]

    records = [
        *problem("mastered", 1, 1, 1),
        *problem("memorized", 1, 0, 1),
        *problem("memorized_all", 0, 0, 1),
        *problem("unknown", 0, 1, 0),
        *problem("not_generalized", 1, 1, 0),
    ]
    # Strict: two memorized, one unknown, half of one not generalized; loose: one memorized.
    assert wemath_score(records, strict=True) == pytest.approx(1 - 3.5 / 5)
    assert wemath_score(records, strict=False) == pytest.approx(1 - 2.5 / 5)


def test_errors_of_means_count_clusters():
    alone = [record(str(n), n % 2) for n in range(100)]
    mean, stderr = mean_estimate(alone, "correct")
    assert mean == 0.5 and stderr == pytest.approx(math.sqrt(0.25 / 99), rel=1e-9)

    # Four records of a cluster that always agree are worth one.
    together = [record(str(n), n % 2, number=i) for n in range(100) for i in range(4)]
    assert mean_estimate(together, "correct")[1] == pytest.approx(stderr, rel=1e-9)
    assert mean_estimate([record("a", 1), record("a", 0)], "correct") == (0.5, None)


def test_errors_of_aggregates_are_drawn_over_clusters():
    records = [record(str(n), n % 2, number=i) for n in range(200) for i in range(3)]
    (value, stderr) = cluster_estimates(
        records, {"mean": lambda rows: float(np.mean([row.scores["correct"] for row in rows]))}
    )["mean"]
    assert value == 0.5 and stderr == pytest.approx(math.sqrt(0.25 / 200), rel=0.15)
