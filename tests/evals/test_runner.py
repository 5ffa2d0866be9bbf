"""Evaluation: known answers give known numbers, padding rows never count, batches change nothing."""

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
from corl_jax.evals.gallery import by_turns, gallery, write_gallery
from corl_jax.evals.runner import evaluate
from corl_jax.evals.statistics import difference, number

sys.path.insert(0, str(Path(__file__).parent))
from oracle import Oracle  # noqa: E402


@pytest.fixture(scope="module")
def records():
    return tuple({r.prompt: r for r in (example("test", i) for i in range(24))}.values())[:13]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


def test_number_is_mean_and_its_standard_error():
    assert number([0, 1, 1, 1]) == {
        "value": 0.75,
        "stderr": pytest.approx(np.sqrt(0.1875 / 3)),
        "n": 4,
    }
    assert number([1.0]) == {"value": 1.0, "stderr": None, "n": 1}
    with pytest.raises(ValueError):
        number([])


def test_difference_is_marked_beyond_two_standard_errors():
    low, near, far = ({"value": v, "stderr": 0.03, "n": 9} for v in (0.5, 0.58, 0.6))
    assert difference(low, near) == (pytest.approx(0.08), pytest.approx(0.03 * 2**0.5), False)
    assert difference(low, far)[2] and difference(far, low)[2]
    assert difference(number([1.0]), far)[1:] == (None, False)


@pytest.mark.parametrize("batch", [4, 64])
def test_a_perfect_policy_scores_one_and_mistakes_are_counted(records, tokenizer, batch):
    wrong, bare = {records[0].id, records[12].id}, {records[1].id}
    oracle = Oracle(records, tokenizer, wrong, bare)
    numbers = evaluate(
        oracle, {}, tokenizer, records, guidances=(1, 2.5), seed=0, batch=batch, quiet=True
    )
    right, formed = 11 / 13, 12 / 13
    for name, value in {
        "t2i_strict@w=1": right,
        "t2i_strict@w=2.5": right,
        "qa_greedy": right,
        "qa_sampled": right,
        "qa_sampled_strict": 10 / 13,
        "qa_format": formed,
        "qa_greedy_format": formed,
    }.items():
        assert numbers[name]["value"] == pytest.approx(value), name
        assert numbers[name]["n"] == 13
    assert right < numbers["t2i_soft@w=1"]["value"] + 1e-6 < 1
    by_type = [
        numbers[f"qa_greedy_{name}"] for name in ("mc", "oe") if f"qa_greedy_{name}" in numbers
    ]
    assert sum(one["n"] for one in by_type) == 13
    assert sum(one["n"] * one["value"] for one in by_type) == pytest.approx(11)
    kinds = [value["n"] for name, value in numbers.items() if name.startswith("qa_greedy/")]
    assert sum(kinds) == 13 and len(kinds) > 2
    assert {rows for rows, *_ in oracle.calls} == {min(batch, 16)}
    assert {(w, guided) for _, w, guided in oracle.calls if isinstance(guided, bool)} == {
        (1, False),
        (2.5, True),
    }
    json.dumps(numbers, allow_nan=False)


def test_batches_change_no_sample(tiny_policy, records):
    given = (tiny_policy.sampler, tiny_policy.params, tiny_policy.tokenizer, records[:3])
    settings = {"guidances": (2.0,), "seed": 5, "answer_tokens": 8, "quiet": True}
    assert evaluate(*given, batch=2, **settings) == evaluate(*given, batch=4, **settings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"guidances": (1, 1.0)}, "repeat"),
        ({"guidances": (-1,)}, "guidance=-1"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_refusals(records, tokenizer, change, says):
    settings = {"guidances": (1,), "seed": 0, "batch": 4} | change
    with pytest.raises(UserError, match=says):
        evaluate(Oracle(records, tokenizer), {}, tokenizer, records, **settings)
    with pytest.raises(UserError, match="no record"):
        evaluate(Oracle(records, tokenizer), {}, tokenizer, (), guidances=(1,), seed=0, batch=4)


def test_gallery_files_hold_prompts_pictures_and_verdicts(records, tokenizer, tmp_path):
    wrong = {records[0].id}
    shown = gallery(
        Oracle(records, tokenizer, wrong), {}, tokenizer, records, guidance=2.0, seed=0, samples=3
    )
    write_gallery(tmp_path, "before", shown)
    sheet = json.loads((tmp_path / "gallery_before.json").read_text())
    assert [row["prompt"] for row in sheet["prompts"]] == [record.prompt for record in records[:8]]
    assert [picture["right"] for picture in sheet["prompts"][0]["pictures"]] == [False] * 3
    assert all(picture["right"] for row in sheet["prompts"][1:] for picture in row["pictures"])
    answers = json.loads((tmp_path / "answers_before.json").read_text())
    assert len(answers) == 12
    assert all(
        one["greedy"]["right"] != (one["id"] in wrong) and one["greedy"]["well_formed"]
        for one in answers
    )
    assert Image.open(tmp_path / "gallery_before.png").width > 6 * 96


def test_questions_take_turns(records):
    kinds = [record.kind for record in by_turns(records)]
    distinct = len(set(kinds))
    assert len(set(kinds[:distinct])) == distinct and len(kinds) == len(records)
