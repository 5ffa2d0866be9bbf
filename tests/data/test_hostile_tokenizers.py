"""Tokenizer files: what a script left in them changes no prompt, and no file costs much."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tokenizers
from hostile_json import SETTINGS, raises_at_most_a_user_error, refusal, variants
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from corl_jax.core.errors import UserError
from corl_jax.data.prompts import pairs_of_tags
from corl_jax.data.shapes.vocabulary import build_tokenizer, vocabulary
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.tokenizer_files import MAX_TEXT_GROWTH, MAX_TEXT_LENGTH, open_tokenizer

CONTENT = json.loads(build_tokenizer().to_str())
PROMPT = "a red circle left of a blue square above a green triangle"
ANSWER = "<think> red circle </think> <answer> two </answer>"


@pytest.fixture(scope="module")
def good():
    return TextTokenizer(build_tokenizer())


@pytest.fixture
def load(tmp_path):
    """A function that loads a folder whose ``tokenizer.json`` has the given entries changed."""

    def write_and_load(**entries):
        (tmp_path / "tokenizer.json").write_text(json.dumps(CONTENT | entries), "utf-8")
        return TextTokenizer.load(tmp_path)

    return write_and_load


def assert_equal_prompts(tokenizer: TextTokenizer, good: TextTokenizer) -> None:
    """Prompts, answers and banned ids are those of a tokenizer that no script has touched."""
    assert tokenizer.image_generation_prompt(PROMPT) == good.image_generation_prompt(PROMPT)
    assert tokenizer.image_generation_prompt(PROMPT)[-1] == tokenizer.boi_id
    assert tokenizer.question_prompt("how many?", 4) == good.question_prompt("how many?", 4)
    assert tokenizer.encode(ANSWER) == good.encode(ANSWER)
    assert tokenizer.decode(tokenizer.encode(ANSWER)) == ANSWER
    np.testing.assert_array_equal(tokenizer.banned_text_ids(), good.banned_text_ids())


def special(*tokens: str) -> list[dict]:
    """Added tokens that are flagged special."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ids = vocabulary()
    return [{"id": ids[token], "content": token, "special": True, **flags} for token in tokens]


TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@pytest.mark.parametrize(
    "entries",
    [
        {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}},
        {"truncation": {"direction": "Left", "max_length": 1, "strategy": "OnlyFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None,
                     "pad_id": 2, "pad_type_id": 0, "pad_token": "<unk>"}},
        {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 128,
                     "pad_id": 2, "pad_type_id": 0, "pad_token": "<unk>"}},
        {"post_processor": {"type": "TemplateProcessing", "special_tokens": {},
                            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3, "pair": []}},
        {"post_processor": {"type": "BertProcessing", "sep": ["<unk>", 8], "cls": ["<unk>", 8]}},
        {"post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
        {"added_tokens": CONTENT["added_tokens"] + special(*TAGS)},
        {"added_tokens": special(*TAGS) + CONTENT["added_tokens"]},
        {"added_tokens": CONTENT["added_tokens"] + special("<think>", "</think>")},
    ],
)  # fmt: skip
def test_what_scripts_leave_in_a_file_changes_no_prompt(load, good, entries):
    assert_equal_prompts(load(**entries), good)


def test_a_tokenizer_object_is_used_alike(good):
    tokenizer = build_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=99)
    tokenizer.post_processor = processors.TemplateProcessing("$A $A", None, [])
    tokenizer.add_special_tokens(list(TAGS))
    assert_equal_prompts(TextTokenizer(tokenizer), good)


def test_the_cases_that_were_answered_wrongly(test_data, good):
    cases = test_data("data/cases") / "models"
    truncated = TextTokenizer.load(cases / "tok_after_truncating_call")
    assert_equal_prompts(truncated, good)
    assert len(truncated.image_generation_prompt(PROMPT)) > 8
    assert_equal_prompts(TextTokenizer.load(cases / "tok_tags_added_special"), good)


def test_only_pairs_of_tags_are_text():
    tokens = {
        "<think>",
        "</think>",
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "</pad >",
        "<my-tag_2>",
        "</my-tag_2>",
    }
    assert pairs_of_tags(tokens) == {"<think>", "</think>", "<my-tag_2>", "</my-tag_2>"}
    assert pairs_of_tags(["<answer>"]) == set()


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
REGEX = {"type": "Replace", "pattern": {"Regex": ""}, "content": "aaaa"}


def steps(*items):
    return {"type": "Sequence", "normalizers": list(items)}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"normalizer": steps(*[REPLACE] * 32)}, "normalizer in tokenizer.json of .* at most 256 times"),
        ({"normalizer": steps(*[steps(REPLACE, REPLACE)] * 16)}, "at most 256 times longer together"),
        ({"normalizer": steps(*[REGEX] * 4)}, "at most 256 times longer together"),
        ({"normalizer": REPLACE | {"content": "a" * 10**6}}, "at most 256 times longer together"),
        ({"normalizer": steps(*[{"type": "Prepend", "prepend": "aa"}] * 8)}, "at most 256 times longer"),
        ({"normalizer": steps(*[{"type": "ByteLevel"}] * 5)}, "at most 256 times longer together"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "ByteLevel", "add_prefix_space": False}] * 5}}, "pre_tokenizer in .* 256 times"),
        ({"decoder": {"type": "Sequence", "decoders": [REPLACE] * 9}}, "decoder in .* 256 times longer"),
        ({"normalizer": [REPLACE]}, "normalizer in .* must be a JSON object; got a list"),
        ({"normalizer": REPLACE | {"content": 3}}, "normalizer.content in .* must be a text; got 3"),
        ({"normalizer": {"type": "Nonsense"}}, "tokenizer.json' cannot be read as a tokenizer"),
        ({"model": None}, "model in tokenizer.json of .* must be a JSON object; got nothing"),
        ({"model": CONTENT["model"] | {"vocab": []}}, "cannot be read as a tokenizer"),
        ({"model": CONTENT["model"] | {"vocab": CONTENT["model"]["vocab"] | {"x": 2**22}}},
         "model.vocab in .* must be tokens with ids below 4194304"),
        ({"model": CONTENT["model"] | {"vocab": CONTENT["model"]["vocab"] | {"x": -1}}},
         "cannot be read as a tokenizer"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}},
         "model.dropout in tokenizer.json of .* must be 0; got 0.1"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
         "cannot be read as a tokenizer"),
        ({"added_tokens": [CONTENT["added_tokens"][0] | {"id": 2**32}]}, "added_tokens.0..id in .*"),
        ({"added_tokens": ["<think>"]}, "added_tokens.0. in .* must be a JSON object; got a text"),
        ({"version": "9.0"}, "cannot be read as a tokenizer"),
    ],
)  # fmt: skip
def test_files_that_are_refused(load, entries, message):
    assert re.search(message, text := refusal(lambda: load(**entries))), text


def test_an_error_of_the_library_names_the_text(load):
    tokenizer = load(model=CONTENT["model"] | {"unk_token": "none"})
    assert tokenizer.encode("red") == [vocabulary()["red"]]
    assert "cannot encode 'dog'" in refusal(tokenizer.encode, "dog")


def test_useful_steps_are_within_the_bounds(tmp_path):
    """Those of Llama, BERT, XLM-R and DeepSeek."""
    content = CONTENT | {
        "normalizer": steps(
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
             "strip_accents": None, "lowercase": True},
            {"type": "NFC"},
        ),
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert open_tokenizer(tmp_path / "tokenizer.json").get_vocab_size() == len(vocabulary())
    assert MAX_TEXT_GROWTH == 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red \ud800 circle", "must be text; got half of a surrogate pair"),
        ("\udcff", "must be text; got half of a surrogate pair"),
        ("a " * (MAX_TEXT_LENGTH // 2 + 1), "at most 100000 characters; got 1000"),
    ],
)
def test_texts_that_no_tokenizer_can_encode(good, text, message):
    for function in (good.encode, good.image_generation_prompt):
        assert message in refusal(function, text)
    assert message in refusal(good.question_prompt, text, 4)


def test_a_tokenizer_of_pieces_has_no_unknown_word():
    pieces = [(token, 0.0) for token in vocabulary()]
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 8, False))
    assert TextTokenizer(unigram).encode("dog")


SMALL = CONTENT | {"model": CONTENT["model"] | {"vocab": {"<unk>": 8, "red": 9, "a": 10}}}


@SETTINGS
@given(variants(SMALL), st.text(max_size=20))
def test_no_file_ends_in_a_traceback(tmp_path_factory, content, text):
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_text(json.dumps(content), "utf-8")
    tokenizer = raises_at_most_a_user_error(TextTokenizer.load, path.parent)
    if tokenizer is not None:
        ids = raises_at_most_a_user_error(tokenizer.encode, text)
        raises_at_most_a_user_error(tokenizer.decode, ids or [1, 9, 10])


@SETTINGS
@given(st.text(st.characters(), max_size=20))
def test_no_text_ends_in_a_traceback(good, text):
    try:
        ids = good.encode(text)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        # What is known is read back up to spaces and to tokens that are no text.
        assert good.decode(ids).replace(" ", "") == "".join(
            good.decode([token_id]) for token_id in ids
        ).replace(" ", "")
