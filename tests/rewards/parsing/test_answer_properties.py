"""What holds for every text: reading twice is reading once, and a solution is right under itself."""

from __future__ import annotations

import re
import string
import unicodedata

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from corl_jax.core.errors import UserError  # noqa: E402
from corl_jax.data.answers.characters import BEFORE_NFKC, canonical_text  # noqa: E402
from corl_jax.data.answers.options import LETTERS, extract_option, list_options  # noqa: E402
from corl_jax.data.answers.reading import is_correct, read_answer  # noqa: E402
from corl_jax.data.answers.words import same_text  # noqa: E402
from corl_jax.data.answers.wrappers import unwrap  # noqa: E402
from corl_jax.data.record_fields import make_record  # noqa: E402
from corl_jax.data.records import check_record  # noqa: E402
from corl_jax.data.sources.columns import read_fields, resolve_columns  # noqa: E402
from corl_jax.rewards.parsing.answers import token_f1  # noqa: E402
from corl_jax.rewards.parsing.boxes import box_score  # noqa: E402
from corl_jax.rewards.parsing.classes import class_f1  # noqa: E402
from corl_jax.rewards.parsing.formulas import read_formula  # noqa: E402
from corl_jax.rewards.parsing.numbers import same_number  # noqa: E402
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard  # noqa: E402

settings.register_profile(
    "answers", max_examples=150, deadline=None, derandomize=True, database=None
)
settings.load_profile("answers")

# Parts that answers are made of, so that texts come near every rule.
PARTS = (
    *("a", "the", "A", "B", "(b)", "red", "blue", "twenty", "one", "hundred", "and", "or", "don't"),
    *(
        "answer",
        "option",
        "is",
        ":",
        ".",
        ",",
        ";",
        "!",
        "?",
        "-",
        "−",
        "—",
        "+",
        "=",
        "<",
        ">",
        "≤",
    ),
    *(
        "3",
        "3.5",
        ".5",
        "1,000",
        "1 000",
        "½",
        "²",
        "₂",
        "³⁄₄",
        "√2",
        "±",
        "%",
        "$",
        "°",
        "cm",
        "m/s",
    ),
    *("**", "*", "`", '"', "'", "“", "”", "′", "(", ")", "[", "]", "{", "}", "\\boxed{", "\\text{"),
    *(
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "\n",
        "\u200b",
        "\u0301",
        "é",
        "e\u0301",
        "Ｂ",
    ),
    *("٣", "İ", "ß", "ﬁ", "…", "。", "♠️", "[1, 2, 3, 4]", "- ", "•", "Options:", "A. ", "\nB. "),
)
LOST = re.compile(f"[{''.join(map(chr, BEFORE_NFKC))}⁰-₉½⅐-⅞↉¼-¾¹²³]")
joined = st.lists(st.sampled_from(PARTS), max_size=8).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda separator: separator.join(parts))
)
texts = joined | st.text(max_size=20) | st.text(string.printable, max_size=20)


@given(texts)
def test_reading_twice_is_reading_once(text):
    for read in (canonical_text, read_answer, unwrap):
        once = read(text)
        assert read(once) == once


@given(texts)
def test_an_answer_is_right_under_itself_and_nothing_is_no_answer(text):
    assert is_correct(text, text, "OE") is bool(read_answer(text))
    if "<answer>" not in (answer := read_answer(text)) and "</answer>" not in answer:
        assert is_correct(f"<answer>{answer}</answer>", text, "OE") is bool(answer)
    assert not is_correct("<answer></answer>", text, "OE")


@given(texts)
def test_equal_texts_are_equal_in_every_normal_form(text):
    for form in ("NFC", "NFD"):
        assert canonical_text(unicodedata.normalize(form, text)) == canonical_text(text)

    # The forms K write x² as x2, 3½ as 31⁄2 and 45º as 45o: what they lose cannot be read again.
    plain = "".join(char for char in text if not LOST.match(char))
    for form in ("NFKC", "NFKD"):
        assert same_text(unicodedata.normalize(form, plain), plain)


@given(texts, texts)
def test_both_sides_are_read_by_one_rule(text, other):
    assert same_text(text, other) is same_text(other, text)
    right = is_correct(text, other, "OE")
    assert right is (is_correct(other, text, "OE"))
    assert right is is_correct(unicodedata.normalize("NFD", text), canonical_text(other), "OE")
    assert token_f1(text, other) == pytest.approx(token_f1(other, text))


@given(texts, texts, st.lists(texts, max_size=4))
def test_nothing_raises_but_user_error(text, other, choices):
    letter = extract_option(text, choices)
    assert letter is None or letter in LETTERS
    list_options(f"{text}\nOptions:\n{other}")
    read_formula(read_answer(text))

    assert 0 <= token_f1(text, other) <= 1 and 0 <= soft_jaccard(text, other) <= 1
    for compare in (class_f1, box_score, same_number):
        try:
            assert 0 <= compare(read_answer(text), read_answer(other)) <= 1
            assert compare(read_answer(other), read_answer(other)) == pytest.approx(1)
        except UserError as error:
            assert "\n" not in str(error)
    try:
        is_correct(text, other, "MC", choices)
    except UserError as error:
        assert "\n" not in str(error)


IMAGE = np.zeros((1, 1, 3), np.uint8)
columns = st.fixed_dictionaries(
    {"prompt": texts, "real_image": st.just("x.png"), "qa_problem": texts, "qa_solution": texts},
    optional={"cls_problem": texts, "cls_solution": texts, "od_solution": texts, "kind": texts},
)
types = st.sampled_from(["MC", "mc", "Multiple-choice", "OE", "open ended", "ＭＣ", "other", ""])


@given(columns, types, st.booleans())
def test_a_record_that_is_read_has_a_correct_solution(row, qa_type, has_options):
    if has_options:
        row = row | {"qa_problem": row["qa_problem"] + "\nOptions:\nA. red\nB. blue\nC. 3.5"}
    location, row = "line 1 of 'x.jsonl'", row | {"qa_type": qa_type}
    fields = read_fields(row, resolve_columns(row, {}, "x"), location)
    record = make_record(fields, "x", IMAGE, location)
    try:
        check_record(record)
    except UserError as error:
        assert "record 'x' (line 1 of 'x.jsonl'): " in str(error) and "\n" not in str(error)
        return

    # A record may be there to be drawn alone.
    if not record.question:
        assert record.prompt and not record.answer
        return
    assert is_correct(record.solution, record.answer, record.qa_type, record.choices)
    assert is_correct(
        f"<answer>{record.answer}</answer>", record.answer, record.qa_type, record.choices
    )
