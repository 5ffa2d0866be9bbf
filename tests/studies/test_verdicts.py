"""The claim of a study held against made figures, and the page that says what came of it."""

from __future__ import annotations

import html.parser

import numpy as np
import pytest
from scipy import stats

from corl_jax.core.errors import UserError
from corl_jax.studies.comparison import Cell, Command, Expectation, Study, render_markdown
from corl_jax.studies.study_page import render_study_page, render_study_svg
from corl_jax.studies.verdicts import compare_arms, describe_seeds, judge_claim, summarize

EVIL = "<script>alert('x')</script>&\"$\\frac"
ARM = (Command("x", ("m",)),)
NOISE = np.array([0.01, -0.02, 0.015, 0.0, -0.01, 0.02, 0.005])


def make_study(*expectations, metrics=("p",), arms=("a", "b", "later")):
    """A study whose claim is these expectations."""
    return Study("Which?", "One is better.", dict.fromkeys(arms, ARM), metrics, expectations)


def make_cells(seeds, metric="p", **means):
    """Arms whose seeds lie around their means."""
    noise = NOISE[:seeds] - NOISE[:seeds].mean()
    return {
        arm: {metric: Cell.from_values([float(value) for value in mean + sign * noise])}
        for sign, (arm, mean) in zip((1, -1), means.items(), strict=False)
    }


@pytest.mark.parametrize(
    ("relation", "gain", "seeds", "outcome"),
    [
        ("above", 0.1, 6, "held"),
        ("above", -0.1, 6, "contradicted"),
        ("above", 0.001, 6, "not shown"),
        # Of three seeds all three agree one time in four by chance.
        ("above", 0.1, 3, "not shown"),
        ("above", 0.1, 1, "not shown"),
        # That nothing differs is never shown.
        ("like", 0.0, 6, "not shown"),
        ("like", 0.1, 6, "contradicted"),
        ("like", -0.1, 6, "contradicted"),
    ],
)
def test_a_claim_is_held_against_the_figures(relation, gain, seeds, outcome):
    cells = make_cells(seeds, a=0.4, b=0.4 + gain)
    (verdict,) = judge_claim(make_study(Expectation("b", relation, "a", "p")), cells)
    assert verdict.outcome == outcome and f"{seeds} seeds" in verdict.figures
    assert f"difference {100 * gain:+.1f} points" in verdict.figures
    assert ("Run the study with --seeds 6" in describe_seeds(cells, "p")) == (seeds < 6)


def test_the_interval_is_that_of_the_paired_t_test():
    cells = make_cells(7, a=0.4, b=0.45)
    row = compare_arms(cells, "p", "b", "a")
    result = stats.ttest_rel(cells["b"]["p"].values, cells["a"]["p"].values)
    np.testing.assert_allclose((row.low, row.high), result.confidence_interval(0.95), atol=1e-3)
    assert row.difference == pytest.approx(0.05) and row.verdict == "higher"

    # An arm that has fewer seeds so far is compared by those that both have.
    fewer = cells | {"a": make_cells(3, a=0.4)["a"]}
    assert compare_arms(fewer, "p", "b", "a").records == 3


def test_one_word_for_a_claim_of_several_parts():
    cells = make_cells(6, a=0.4, b=0.5)
    parts = [Expectation("b", "above", "a", "p"), Expectation("a", "above", "b", "p"),
             Expectation("b", "above", "later", "p")]  # fmt: skip
    outcomes = [judge_claim(make_study(part), cells)[0] for part in parts]
    assert [it.outcome for it in outcomes] == ["held", "contradicted", "not measured yet"]
    assert summarize(outcomes) == "contradicted" and summarize(outcomes[:1]) == "held"
    assert summarize([outcomes[0], outcomes[2]]) == "not shown"


def test_expectations_are_of_the_study():
    for wrong in (("c", "above", "a", "p"), ("b", "above", "a", "q")):
        with pytest.raises(UserError, match="arms and a metric of its study; got '[cb]', 'a'"):
            make_study(Expectation(*wrong))


class Tags(html.parser.HTMLParser):
    """The tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)


def test_the_verdict_comes_first_and_names_are_text():
    study = Study(EVIL, EVIL, dict.fromkeys((EVIL, "b"), ARM), (EVIL,),
                  (Expectation("b", "above", EVIL, EVIL),))  # fmt: skip
    cells = make_cells(6, EVIL, **{EVIL: 0.4, "b": 0.5})
    page = render_study_page(EVIL, study, cells, [], EVIL)
    assert "script" not in Tags(page).tags and page.count("&lt;script&gt;") > 8
    assert page.index('<span class="pill up">held</span>') < page.index("<table")
    assert "+10.0 points, 95 % interval" in page[: page.index("<table")]
    assert "<script" not in render_study_svg(EVIL, study, cells)


def test_rewards_are_no_shares():
    study = make_study(Expectation("b", "above", "a", "reward/text"), metrics=("reward/text",))
    cells = make_cells(6, "reward/text", a=0.4, b=0.5)
    assert "| b | 0.500 ± 0.006 | 6 |" in render_markdown(study, cells)
    page = render_study_page("s", study, cells, [], "")
    assert "difference +0.1, 95 % interval" in page and "points" not in page
    assert ">0.500 ± 0.006</td>" in page and "40.0" not in page and ">reward</text>" in page
