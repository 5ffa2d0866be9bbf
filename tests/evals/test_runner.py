"""Evaluation: known answers give known metrics, padding does not count, batches change nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.gallery import interleave_kinds, make_gallery, write_gallery
from corl_jax.evals.runner import evaluate
from corl_jax.evals.statistics import difference, estimate

sys.path.insert(0, str(Path(__file__).parent))
from oracle import Oracle  # noqa: E402


@pytest.fixture(scope="module")
def records():
    """Thirteen records with different captions."""
    by_caption = {record.prompt: record for record in (example("test", i) for i in range(24))}
    return tuple(by_caption.values())[:13]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


def oracle_policy(records, tokenizer, incorrect=(), bare=()):
    """A policy whose programs are those of an ``Oracle``."""
    return EvalPolicy(Oracle(records, tokenizer, incorrect, bare), {}, tokenizer)


def test_estimate_is_the_mean_and_its_standard_error():
    assert estimate([0, 1, 1, 1]) == {
        "value": 0.75,
        "stderr": pytest.approx(np.sqrt(0.1875 / 3)),
        "n": 4,
    }
    assert estimate([1.0]) == {"value": 1.0, "stderr": None, "n": 1}
    with pytest.raises(ValueError):
        estimate([])


def test_difference_is_significant_beyond_two_standard_errors():
    low, near, far = ({"value": value, "stderr": 0.03, "n": 9} for value in (0.5, 0.58, 0.6))
    assert difference(low, near) == (pytest.approx(0.08), pytest.approx(0.03 * 2**0.5), False)
    assert difference(low, far)[2] and difference(far, low)[2]
    assert difference(estimate([1.0]), far)[1:] == (None, False)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_a_perfect_policy_scores_one_and_mistakes_are_counted(records, tokenizer, batch_size):
    incorrect, bare = {records[0].id, records[12].id}, {records[1].id}
    policy = oracle_policy(records, tokenizer, incorrect, bare)
    metrics = evaluate(policy, records, (1, 2.5), EvalSampling(0, batch_size), quiet=True)

    correct, formed = 11 / 13, 12 / 13
    for name, value in {
        "t2i_strict@w=1": correct,
        "t2i_strict@w=2.5": correct,
        "qa_greedy": correct,
        "qa_sampled": correct,
        "qa_sampled_strict": 10 / 13,
        "qa_format": formed,
        "qa_greedy_format": formed,
        "qa_truncated": 0,
        "qa_greedy_truncated": 0,
    }.items():
        assert metrics[name]["value"] == pytest.approx(value), name
        assert metrics[name]["n"] == 13
    assert correct < metrics["t2i_soft@w=1"]["value"] + 1e-6 < 1

    # Each break-down covers every record once.
    for whole, right in (("qa_greedy", 11), ("qa_sampled_strict", 10)):
        type_names = [f"{whole}_{qa_type}" for qa_type in ("mc", "oe")]
        by_type = [metrics[name] for name in type_names if name in metrics]
        assert sum(entry["n"] for entry in by_type) == 13
        assert sum(entry["n"] * entry["value"] for entry in by_type) == pytest.approx(right)
    kinds = [value["n"] for name, value in metrics.items() if name.startswith("qa_greedy/")]
    assert sum(kinds) == 13 and len(kinds) > 2

    # All calls have one shape, and guidance 1 skips the unconditional prompts.
    calls = policy.fns.calls
    assert {rows for rows, *_ in calls} == {min(batch_size, 16)}
    assert {(scale, guided) for _, scale, guided in calls if isinstance(guided, bool)} == {
        (1, False),
        (2.5, True),
    }
    json.dumps(metrics, allow_nan=False)


def test_answers_that_were_cut_are_counted(records, tokenizer):
    """A bare answer is a word and the end token; the others have four tags, too."""
    bare = {record.id for record in records[:4]}
    policy = oracle_policy(records, tokenizer, bare=bare)
    metrics = evaluate(policy, records, (1,), EvalSampling(0, 16, answer_tokens=4), quiet=True)
    for name in ("qa_truncated", "qa_greedy_truncated"):
        assert metrics[name]["value"] == pytest.approx(9 / 13)
    assert metrics["qa_greedy"]["value"] < 1


def test_batch_size_changes_no_sample(tiny_policy, records):
    policy = EvalPolicy(tiny_policy.fns, tiny_policy.params, tiny_policy.tokenizer)
    of_two, of_four = (
        evaluate(
            policy,
            records[:3],
            (2.0,),
            EvalSampling(5, batch_size, answer_tokens=8),
            quiet=True,
        )
        for batch_size in (2, 4)
    )
    assert of_two == of_four


@pytest.mark.parametrize(
    ("guidance_scales", "batch_size", "message"),
    [
        ((1, 1.0), 4, "guidance scales must differ from each other; got 1, 1"),
        ((-1,), 4, "guidance scale must be a finite number of at least 0; got -1"),
        ((1,), 0, "batch size of an evaluation must be at least 1; got 0"),
    ],
)
def test_bad_arguments_are_refused(records, tokenizer, guidance_scales, batch_size, message):
    policy = oracle_policy(records, tokenizer)
    with pytest.raises(UserError, match=message):
        evaluate(policy, records, guidance_scales, EvalSampling(0, batch_size))
    with pytest.raises(UserError, match="at least one record; got none"):
        evaluate(policy, (), (1,), EvalSampling(0, 4))


def test_gallery_files_contain_prompts_images_and_grades(records, tokenizer, tmp_path):
    incorrect = {records[0].id}
    policy = oracle_policy(records, tokenizer, incorrect)
    sampling = EvalSampling(0, 4)
    gallery = make_gallery(policy, records, sampling, guidance_scale=2.0, samples=3)
    # The programs of an evaluation: an image or a question is a row.
    assert {rows for rows, *_ in policy.fns.calls} == {4}
    write_gallery(tmp_path, "before", gallery)

    prompts = json.loads((tmp_path / "gallery_before.json").read_text())["prompts"]
    assert [entry["prompt"] for entry in prompts] == [record.prompt for record in records[:8]]
    assert [picture["right"] for picture in prompts[0]["pictures"]] == [False] * 3
    assert all(picture["right"] for entry in prompts[1:] for picture in entry["pictures"])

    answers = json.loads((tmp_path / "answers_before.json").read_text())
    assert len(answers) == 12
    assert all(
        entry["greedy"]["right"] != (entry["id"] in incorrect) and entry["greedy"]["well_formed"]
        for entry in answers
    )
    assert Image.open(tmp_path / "gallery_before.png").width > 6 * 96


def test_kinds_of_questions_are_interleaved(records):
    places = interleave_kinds(records)
    assert sorted(places) == list(range(len(records)))
    kinds = [records[place].kind for place in places]
    distinct = len(set(kinds))
    assert len(set(kinds[:distinct])) == distinct and len(kinds) == len(records)
