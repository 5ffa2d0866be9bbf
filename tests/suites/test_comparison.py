"""Differences of policies: intervals, claims, corrections, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import time

import made_results
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.suites.comparing import resampling
from corl_jax.suites.comparing.comparison import compare_results
from corl_jax.suites.comparing.differences import NO_DIFFERENCE
from corl_jax.suites.comparing.sum_metrics import all_right, f1_of, mean_of

make = made_results.make_results


def flips(rng, count, share):
    return (rng.random(count) < share).astype(float)


def test_the_interval_is_the_analytic_one_where_there_are_many_records():
    rng = np.random.default_rng(0)
    first, second = flips(rng, 4000, 0.5), flips(rng, 4000, 0.52)
    row = compare_results([make("a", first), make("b", second)]).differences[0]

    change = second - first
    reach = 1.96 * change.std(ddof=1) / math.sqrt(4000)
    assert row.difference == pytest.approx(change.mean(), abs=1e-12)
    assert row.low == pytest.approx(change.mean() - reach, abs=0.05 * reach)
    assert row.high == pytest.approx(change.mean() + reach, abs=0.05 * reach)
    assert (row.up, row.down) == ((change > 0).sum(), (change < 0).sum())
    # The exchange test is the sign test where scores are 0 or 1, normal for so many.
    z = abs(change.sum()) / math.sqrt((change != 0).sum())
    assert row.p_value == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_correlated_clusters_widen_the_interval():
    rng = np.random.default_rng(1)
    # Four questions about a picture that are right or wrong together hold no more than one.
    first, second = (np.repeat(flips(rng, 500, share), 4) for share in (0.5, 0.5))
    together = [f"picture {place // 4}" for place in range(2000)]
    alone, grouped = (
        compare_results([make("a", first, clusters=names), make("b", second, clusters=names)])
        for names in (None, together)
    )
    widths = [it.differences[0].high - it.differences[0].low for it in (alone, grouped)]
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.06)
    assert (grouped.differences[0].clusters, grouped.differences[0].records) == (500, 2000)


def test_policies_of_the_same_accuracy_are_rarely_called_different(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 500)
    rng = np.random.default_rng(2)
    claims = 0
    for _ in range(200):
        # Both know the same half of the questions, and a tenth of their answers is noise.
        known = flips(rng, 300, 0.5)
        sides = [np.where(rng.random(300) < 0.1, 1 - known, known) for _ in range(2)]
        row = compare_results([make("a", sides[0]), make("b", sides[1])]).differences[0]
        claims += row.verdict != NO_DIFFERENCE
    # 5 % of 200 with two standard deviations of room; a rule that never claims fails at ten points.
    assert claims <= 16


def test_ten_points_are_claimed():
    rng, count = np.random.default_rng(3), 500
    first = flips(rng, count, 0.5)
    second = first.copy()
    # 20 % rise and 10 % fall.
    order = rng.permutation(count)
    zeros, ones = (order[first[order] == value] for value in (0, 1))
    second[zeros[: count // 5]], second[ones[: count // 10]] = 1, 0
    row, reverse = (
        compare_results(sides).differences[0]
        for sides in ([make("a", first), make("b", second)], [make("b", second), make("a", first)])
    )
    assert row.difference == pytest.approx(0.1) and row.verdict == "higher"
    assert (row.up, row.down) == (count // 5, count // 10)
    assert reverse.verdict == "lower"
    assert (reverse.low, reverse.high) == pytest.approx((-row.high, -row.low), abs=0.01)


def test_few_records_that_differ_prove_nothing():
    # The bootstrap alone would claim this: no resample falls.
    first = np.zeros(1000)
    second = first.copy()
    second[:5] = 1
    row = compare_results([make("a", first), make("b", second)]).differences[0]
    assert row.low > 0 and row.verdict == NO_DIFFERENCE
    # The sign test: all five rise or all five fall.
    assert row.p_value == pytest.approx(2 / 32, abs=0.01)
    second[:8] = 1
    assert compare_results([make("a", first), make("b", second)]).differences[0].verdict == "higher"


def test_a_single_cluster_has_no_interval():
    sides = [make(name, [value] * 9, clusters="x" * 9) for name, value in (("a", 0), ("b", 1))]
    row = compare_results(sides).differences[0]
    assert (row.low, row.high, row.p_value) == (-math.inf, math.inf, 1.0)
    assert row.verdict == NO_DIFFERENCE


def test_few_clusters_have_intervals_that_hold():
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(400):
        sums = np.stack([rng.normal(size=8), np.ones(8)], axis=1)
        draws = resampling.bootstrap_sums(sums, 1000, seed)
        low, high = resampling.percentile_interval(draws[:, 0] / draws[:, 1], 8)
        held += low <= 0 <= high
    # 95 %; plain percentiles hold 90 % of the time here.
    assert 0.92 <= held / 400 <= 0.98


def test_draws_keep_clusters_whole_and_have_as_many():
    sums = np.array([[1.0, 1, 0], [10, 1, 0], [100, 1, 0], [1000, 1, 3]])
    draws = resampling.bootstrap_sums(sums, 3000, 0)
    assert (draws[:, 1] == 4).all()
    assert draws[:, 0].mean() == pytest.approx(1111, rel=0.05)
    # A draw of four clusters has digits that add up to four.
    assert {sum(map(int, str(int(value)))) for value in draws[:, 0]} == {4}
    assert np.array_equal(draws, resampling.bootstrap_sums(sums, 3000, 0))

    one, other = resampling.exchanged_sums(sums, 2 * sums, 3000, 0)
    assert np.allclose(one + other, 3 * sums.sum(axis=0))
    # Each of the 16 exchanges comes about equally often.
    counts = np.unique(one[:, 0], return_counts=True)[1]
    assert len(counts) == 16 and counts.min() > 120


def test_chunks_change_nothing_but_memory(monkeypatch):
    sums = np.random.default_rng(0).random((64, 2))
    whole = resampling.bootstrap_sums(sums, 500, 7)
    monkeypatch.setattr(resampling, "CHUNK", 64 * 33)
    assert np.allclose(resampling.bootstrap_sums(sums, 500, 7), whole)


def test_holm_corrects_categories():
    # By hand: 0.01 * 4, 0.02 * 3, max(0.04 * 2, before), max(0.03 * ...) in order of rank.
    assert resampling.holm([0.04, 0.01, 0.03, 0.2]) == pytest.approx([0.09, 0.04, 0.09, 0.2])
    assert resampling.holm([0.6, 0.7]) == [1.0, 1.0] and resampling.holm([]) == []

    # One of ten categories differs as much as chance allows now and then: alone it is claimed.
    categories = [f"c{place // 20}" for place in range(200)]
    first, second = np.zeros(200), np.zeros(200)
    second[:7] = 1
    sides = [make("a", first, categories=categories), make("b", second, categories=categories)]
    rows = {row.category: row for row in compare_results(sides).categories}
    assert len(rows) == 10 and rows["c0"].low > 0
    assert rows["c0"].p_value == pytest.approx(10 * 2 / 128, abs=0.03)
    assert rows["c0"].verdict == NO_DIFFERENCE and rows["c1"].p_value == 1

    part = [dataclasses.replace(it, records=it.records[:20]) for it in sides]
    assert compare_results(part).differences[0].verdict == "higher"
    assert compare_results(part).categories == ()


def metric_records():
    """Eight answers: 3 hits, 1 miss, 1 false alarm, in four clusters of two."""
    references = ["yes", "yes", "yes", "yes", "no", "no", "no", "no"]
    scores = [1, 1, 1, 0, 0, 1, 1, 1]
    return scores, {"clusters": "aabbccdd", "reference": references}


def test_sum_metrics_by_hand():
    scores, options = metric_records()
    records = made_results.make_records(scores, **options)
    assert mean_of("right")(records) == 6 / 8
    assert f1_of("right", "yes")(records) == 6 / 8
    # "no": three hits, one false alarm (the missed yes), one miss.
    assert f1_of("right", "no")(records) == 6 / 8
    assert f1_of("right", "yes")(records[:3]) == 1
    assert math.isnan(f1_of("right", "yes")(records[5:]))
    assert all_right("right")(records) == 2 / 4
    # Groups within a cluster: each record by itself.
    assert all_right("right", lambda record: record.id)(records) == 6 / 8
    assert math.isnan(mean_of("other")(records))


def test_functions_of_records_agree_with_sum_metrics():
    rng = np.random.default_rng(5)
    clusters = [place // 2 for place in range(800)]
    sides = [
        make(name, flips(rng, 800, share), clusters=clusters)
        for name, share in (("a", 0.6), ("b", 0.7))
    ]
    pair_right = all_right("right")
    start = time.process_time()
    fast, slow = compare_results(
        sides, {"fast": pair_right, "slow": lambda records: pair_right(records)}
    ).differences[1:]
    assert time.process_time() - start < 10
    assert (fast.metric, slow.metric, slow.up) == ("fast", "slow", None)
    assert slow.value == fast.value and slow.first == fast.first
    # A cluster that is drawn twice counts twice; were its copies one, intervals would be wrong.
    reach = [(row.high - row.low) / 2 for row in (fast, slow)]
    assert reach[1] == pytest.approx(reach[0], rel=0.15)
    assert slow.p_value == pytest.approx(fast.p_value, abs=0.03)
    assert fast.verdict == slow.verdict == "higher"


def test_an_undefined_metric_is_not_claimed():
    # F1 of one yes among ten: every third resample has none.
    references = ["yes", *["no"] * 9]
    sides = [make(n, [v] * 10, reference=references) for n, v in (("a", 0), ("b", 1))]
    row = compare_results(sides, {"f1": f1_of("right", "yes")}).differences[1]
    assert (row.first, row.value) == (0, 1)
    # A resample without a yes has an F1 of 0 for who says yes to all, and none for who is right.
    assert (row.low, row.high, row.verdict) == (-math.inf, math.inf, NO_DIFFERENCE)


def test_records_without_a_score_are_left_out_and_counted():
    first = [
        {"right": 1.0, "rare": 0.5},
        {"right": 0.0},
        {"right": 1.0, "rare": 1.0, "only a": 1.0},
    ]
    second = [{"right": 1.0, "rare": 0.25}, {"right": 0.0, "rare": 9.0}, {"rare": 1.0}]
    comparison = compare_results([make("a", first), make("b", second)])
    assert comparison.scores == ("right", "rare")
    right, rare = comparison.differences
    assert (right.records, right.left_out, right.difference) == (2, 1, 0)
    assert (rare.records, rare.left_out, rare.difference) == (2, 1, -0.125)


def test_a_score_that_no_record_has_on_both_sides_is_not_compared():
    first = make("a", [{"right": 1.0, "other": 1.0}, {"right": 0.0}])
    second = make("b", [{"right": 1.0}, {"right": 0.0, "other": 1.0}])
    assert compare_results([first, second]).scores == ("right",)
    with pytest.raises(UserError, match="must have the score 'other', from which 'f1' is made"):
        compare_results([first, second], {"f1": f1_of("other", "yes")})


def test_several_policies_and_json():
    rng = np.random.default_rng(6)
    first = flips(rng, 300, 0.5)
    # The third differs from the first in ten answers, five of which are right.
    third = np.concatenate([np.repeat([0.0, 1.0], 5), first[10:]])
    first[:10] = 1 - third[:10]
    scores = {"a": first, "b": flips(rng, 300, 0.9), "c": third}
    sides = [make(name, values) for name, values in scores.items()]
    # The order of records does not matter.
    shuffled = dataclasses.replace(sides[2], records=sides[2].records[::-1])
    comparison = compare_results([*sides[:2], shuffled])
    assert [row.policy for row in comparison.differences] == [1, 2]
    assert [row.verdict for row in comparison.differences] == ["higher", NO_DIFFERENCE]
    assert comparison == compare_results([*sides[:2], sides[2]])

    content = comparison.to_json()
    assert content["differences"][0]["verdict"] == "higher" and content["categories"] == []
    assert [policy["about"]["policy"] for policy in content["policies"]] == ["a", "b", "c"]


def test_three_thousand_records_are_fast():
    rng = np.random.default_rng(7)
    sides = [make(name, flips(rng, 3000, 0.5)) for name in "ab"]
    metrics = {
        "f1": f1_of("right", "yes"),
        "any function": lambda records: sum(r.scores["right"] for r in records) / len(records),
    }
    start = time.process_time()
    compare_results(sides, metrics)
    # One core needs about 1.5 s; others run beside it.
    assert time.process_time() - start < 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "mme"}, "'/results/a' and '/results/b' must be of one suite; got 'mmstar' and 'mme'"),
        ({"about": {"data": "v2"}}, r"same data \(data in about\); got nothing and 'v2'"),
        ({"ids": {"q1": "q9"}}, "must have the same records; got 'q1' only in '/results/a' (1 of 3"),
        ({"drop": 1}, "got 'q2' only in '/results/a' (1 of 3 are not in '/results/b'"),
        ({"add": 1}, "got 'q3' only in '/results/b' (1 of 4 are not in '/results/a'"),
        ({"field": ("prompt", "another?")}, "same prompt in record 'q1'; got 'question 1?' and 'ano"),
        ({"field": ("prompt", "question 1!")}, "got 'question 1?' and 'question 1!'"),
        ({"field": ("reference", "no")}, "the same reference in record 'q1'; got 'yes' and 'no'"),
        ({"field": ("cluster", "c")}, "the same cluster in record 'q1'"),
        ({"field": ("category", "c")}, "the same category in record 'q1'"),
        ({"ids": {"q1": "q0"}}, "records of '/results/b' must have different ids; got 'q0' twice"),
        ({"records": ()}, "'/results/b' must have records; got none"),
        ({"score": "other"}, "must have a score in common; got none in '/results/a', '/results/b'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(change, message):
    other = make("b", [1, 0, 1, 0][: 3 + change.get("add", 0) - change.get("drop", 0)])
    match change:
        case {"suite": suite}:
            other = make("b", [1, 0, 1], suite=suite)
        case {"about": about}:
            other = make("b", [1, 0, 1], about=about)
        case {"ids": ids}:
            records = [dataclasses.replace(it, id=ids.get(it.id, it.id)) for it in other.records]
            other = dataclasses.replace(other, records=tuple(records))
        case {"field": (name, value)}:
            records = list(other.records)
            records[1] = dataclasses.replace(records[1], **{name: value})
            other = dataclasses.replace(other, records=tuple(records))
        case {"records": records}:
            other = dataclasses.replace(other, records=records)
        case {"score": score}:
            other = make("b", [{score: 1.0}] * 3)
    with pytest.raises(UserError) as error:
        compare_results([make("a", [1, 0, 1]), other])
    assert message.replace("\\", "") in str(error.value) and "\n" not in str(error.value)


def test_one_folder_is_no_comparison():
    side = make("a", [1, 0])
    with pytest.raises(UserError, match="at least two folders; got 1"):
        compare_results([side])
    with pytest.raises(UserError, match="folders must differ; got '/results/a' twice"):
        compare_results([side, make("b", [1, 0]), side])


def test_long_texts_are_shown_from_where_they_part():
    long = "x" * 500
    sides = [make(n, [1], prompt=[f"{long} {n} {long}"]) for n in ("first", "second")]
    with pytest.raises(UserError) as error:
        compare_results(sides)
    assert " first x" in str(error.value) and " second x" in str(error.value)
    assert len(str(error.value)) < 500
