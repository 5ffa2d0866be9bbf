"""The tokenizer, the prompts, and padding."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.captions import listing
from corl_jax.data.shapes.examples import example, example_scene
from corl_jax.data.shapes.vocabulary import DESCRIBE, UNKNOWN, vocabulary, write_tokenizer
from corl_jax.data.text_tokenizer import SPECIAL, TextTokenizer, left_pad


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return TextTokenizer.load(folder)


def test_text_round_trip(tokenizer):
    text = "<think> red circle , blue square </think> <answer> two </answer>"
    ids = tokenizer.encode("<think>red circle, blue square</think><answer>two</answer>")
    assert ids == tokenizer.encode(text) and len(ids) == 10
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id, *ids]) == text
    assert tokenizer.decode(tokenizer.encode("what?\nA. red\n\n")) == "what ? \n A . red \n\n"
    assert tokenizer.vocab_size == len(vocabulary())


def test_the_whole_world_can_be_said(tokenizer):
    for split in ("train", "test"):
        for i in range(300):
            record = example(split, i)
            for text in (
                record.prompt,
                record.question,
                record.answer,
                listing(example_scene(split, i)[0]),
                DESCRIBE,
            ):
                tokenizer.encode(text)


def test_prompts(tokenizer):
    ids = {token: vocabulary()[token] for token in SPECIAL}
    word = vocabulary()
    drawing = tokenizer.drawing_prompt(" a red circle ")
    assert drawing == [
        tokenizer.bos_id,
        ids["<|User|>"],
        *(word[token] for token in (":", "a", "red", "circle", "\n\n")),
        ids["<|Assistant|>"],
        word[":"],
        tokenizer.boi_id,
    ]
    asked = tokenizer.question_prompt("how many?", 3)
    assert asked == [
        *(tokenizer.bos_id, ids["<|User|>"], word[":"], tokenizer.boi_id),
        *[tokenizer.image_id] * 3,
        tokenizer.eoi_id,
        *(word[token] for token in ("\n", "how", "many", "?", "\n\n")),
        ids["<|Assistant|>"],
        word[":"],
    ]
    nothing = tokenizer.unconditional(drawing)
    assert (
        nothing[0] == tokenizer.bos_id
        and nothing[-1] == tokenizer.boi_id
        and len(nothing) == len(drawing)
    )
    assert set(nothing[1:-1]) == {tokenizer.pad_id}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_prompts_are_refused(tokenizer, text):
    with pytest.raises(UserError, match="prompt is empty"):
        tokenizer.drawing_prompt(text)
    with pytest.raises(UserError, match="question is empty"):
        tokenizer.question_prompt(text, 4)


def test_unknown_words_and_special_tokens_are_named(tokenizer):
    with pytest.raises(UserError, match="'dog', 'mat'.*triangle"):
        tokenizer.drawing_prompt("a red dog left of a mat")
    with pytest.raises(UserError, match="image_placeholder"):
        tokenizer.question_prompt("what is <image_placeholder>?", 4)


def test_banned_ids(tokenizer):
    banned = tokenizer.banned_text_ids(80)
    expected = {vocabulary()[token] for token in (*SPECIAL, UNKNOWN)} - {tokenizer.eos_id} | set(
        range(65, 80)
    )
    assert set(np.flatnonzero(banned)) == expected
    assert tokenizer.banned_text_ids().shape == (tokenizer.vocab_size,)
    with pytest.raises(UserError, match="same checkpoint"):
        tokenizer.banned_text_ids(10)


def test_broken_tokenizers(folder, tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        TextTokenizer.load(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] != "<end_of_image>"
    ]
    content["model"]["vocab"].pop("<end_of_image>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="lacks the special tokens <end_of_image>"):
        TextTokenizer.load(tmp_path)


def test_transformers_reads_the_folder(folder, tokenizer):
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
    ids = auto.encode("<think> two </think>", add_special_tokens=False)
    assert ids == tokenizer.encode("<think> two </think>")
    assert (
        auto.decode([*ids, auto.eos_token_id], skip_special_tokens=True) == "<think> two </think>"
    )
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    parts = [{"type": "image"}, {"type": "text", "text": "how many?"}]
    chat = [{"role": "user", "content": parts}]
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    assert auto.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        f"{bos}<|User|>: <image_placeholder>\nhow many?\n\n<|Assistant|>:"
    )
    chat = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "yes"}]
    assert (
        auto.apply_chat_template(chat, tokenize=False)
        == f"{bos}<|User|>: a red circle\n\n<|Assistant|>: yes{eos}"
    )


def test_left_pad():
    tokens, mask = left_pad([[1, 2, 3], [4]], pad_id=9, multiple=4)
    assert tokens.tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]] and tokens.dtype == np.int32
    assert mask.tolist() == [[False, True, True, True], [False, False, False, True]]
    assert left_pad([[1] * 9], 0)[0].shape == (1, 16)
    assert left_pad([[1, 2]], 0, length=5)[0].shape == (1, 5)
    with pytest.raises(UserError, match="3 tokens, at most 2"):
        left_pad([[1, 2, 3]], 0, length=2)


def test_speakers_are_plain_words_where_the_tokenizer_has_no_tokens_for_them(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    speakers = {"<|User|>": "User", "<|Assistant|>": "Assistant"}
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] not in speakers
    ]
    for token, word in speakers.items():
        content["model"]["vocab"][word] = content["model"]["vocab"].pop(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    words = TextTokenizer.load(tmp_path)
    known = content["model"]["vocab"]
    assert (words.user, words.assistant) == ("User", "Assistant")
    ids = words.drawing_prompt("a red circle")
    assert ids[1] == known["User"] and ids[-3] == known["Assistant"] and ids[-1] == words.boi_id
    assert known["User"] in words.question_prompt("how many?", 3)
