"""The tokenizer, the prompts, and padding."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import byte_tokenizer

from corl_jax.core.errors import UserError
from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.shapes.captions import list_objects
from corl_jax.data.shapes.examples import example, example_scene
from corl_jax.data.shapes.vocabulary import DESCRIBE, UNKNOWN, vocabulary, write_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad


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


def test_the_vocabulary_covers_all_texts_of_the_world(tokenizer):
    for split in ("train", "test"):
        for i in range(300):
            record = example(split, i)
            objects = list_objects(example_scene(split, i)[0])
            for text in (record.prompt, record.question, record.answer, objects, DESCRIBE):
                tokenizer.encode(text)


def test_prompts(tokenizer):
    ids = vocabulary()
    image_prompt = tokenizer.image_generation_prompt(" a red circle ")
    assert image_prompt == [
        tokenizer.bos_id,
        ids["<|User|>"],
        *(ids[token] for token in (":", "a", "red", "circle", "\n\n")),
        ids["<|Assistant|>"],
        ids[":"],
        tokenizer.boi_id,
    ]
    assert tokenizer.question_prompt("how many?", 3) == [
        *(tokenizer.bos_id, ids["<|User|>"], ids[":"], tokenizer.boi_id),
        *[tokenizer.image_id] * 3,
        tokenizer.eoi_id,
        *(ids[token] for token in ("\n", "how", "many", "?", "\n\n")),
        ids["<|Assistant|>"],
        ids[":"],
    ]

    unconditional = tokenizer.unconditional_prompt(image_prompt)
    assert len(unconditional) == len(image_prompt)
    assert unconditional[0] == tokenizer.bos_id and unconditional[-1] == tokenizer.boi_id
    assert set(unconditional[1:-1]) == {tokenizer.pad_id}


def test_another_template_gives_other_prompts(folder):
    template = dataclasses.replace(
        JANUS_TEMPLATE,
        image_generation_format="{prompt}{begin_of_image}",
        question_format="{image}{question}",
        content_format="{content}",
    )
    tokenizer, ids = TextTokenizer.load(folder, template), vocabulary()
    words = [ids["a"], ids["circle"]]
    assert tokenizer.image_generation_prompt("a circle") == [
        *(tokenizer.bos_id, *words, tokenizer.boi_id)
    ]
    assert tokenizer.question_prompt("a circle", 2) == [
        *(tokenizer.bos_id, tokenizer.boi_id),
        *[tokenizer.image_id] * 2,
        *(tokenizer.eoi_id, *words),
    ]
    with pytest.raises(UserError, match="lacks the special tokens <s>; use the .* of a Toy model"):
        TextTokenizer.load(folder, dataclasses.replace(template, family="Toy", bos="<s>"))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_prompts_are_refused(tokenizer, text):
    with pytest.raises(UserError, match="prompt is empty"):
        tokenizer.image_generation_prompt(text)
    with pytest.raises(UserError, match="question is empty"):
        tokenizer.question_prompt(text, 4)


def test_unknown_words_and_special_tokens_are_named(tokenizer):
    with pytest.raises(UserError, match="'dog', 'mat'.*triangle"):
        tokenizer.image_generation_prompt("a red dog left of a mat")
    with pytest.raises(UserError, match="image_placeholder"):
        tokenizer.question_prompt("what is <image_placeholder>?", 4)


def test_banned_ids(tokenizer):
    special_ids = {vocabulary()[token] for token in (*JANUS_TEMPLATE.special_tokens, UNKNOWN)}
    ids_without_token = set(range(65, 80))
    banned = tokenizer.banned_text_ids(80)
    assert set(np.flatnonzero(banned)) == special_ids - {tokenizer.eos_id} | ids_without_token
    assert tokenizer.banned_text_ids().shape == (tokenizer.vocab_size,)
    with pytest.raises(UserError, match="same checkpoint"):
        tokenizer.banned_text_ids(10)


def test_broken_tokenizers(folder, tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer.json' is not JSON"):
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
    auto_tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
    ids = auto_tokenizer.encode("<think> two </think>", add_special_tokens=False)
    assert ids == tokenizer.encode("<think> two </think>")
    text = auto_tokenizer.decode([*ids, auto_tokenizer.eos_token_id], skip_special_tokens=True)
    assert text == "<think> two </think>"
    assert auto_tokenizer.bos_token_id == tokenizer.bos_id
    assert auto_tokenizer.eos_token_id == tokenizer.eos_id
    assert auto_tokenizer.pad_token_id == tokenizer.pad_id

    # Begin of sentence comes from the tokenizer, not from the template.
    assert auto_tokenizer.encode("two") == [tokenizer.bos_id, *tokenizer.encode("two")]

    # The chat template: a question about an image, and a finished conversation.
    eos = "<｜end▁of▁sentence｜>"
    parts = [{"type": "image"}, {"type": "text", "text": "how many?"}]
    chat = [{"role": "user", "content": parts}]
    assert auto_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|User|>: <image_placeholder>\nhow many?\n\n<|Assistant|>:"
    )
    chat = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "yes"}]
    assert (
        auto_tokenizer.apply_chat_template(chat, tokenize=False)
        == f"<|User|>: a red circle\n\n<|Assistant|>: yes{eos}"
    )


def test_left_pad():
    tokens, mask = left_pad([[1, 2, 3], [4]], pad_id=9, multiple=4)
    assert tokens.tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]] and tokens.dtype == np.int32
    assert mask.tolist() == [[False, True, True, True], [False, False, False, True]]
    assert left_pad([[1] * 9], 0)[0].shape == (1, 16)
    assert left_pad([[1, 2]], 0, length=5)[0].shape == (1, 5)
    with pytest.raises(UserError, match="3 tokens, at most 2"):
        left_pad([[1, 2, 3]], 0, length=2)


def test_roles_are_plain_words_if_the_tokenizer_has_no_role_tokens(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    role_words = {"<|User|>": "User", "<|Assistant|>": "Assistant"}
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] not in role_words
    ]
    ids = content["model"]["vocab"]
    for token, word in role_words.items():
        ids[word] = ids.pop(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")

    tokenizer = TextTokenizer.load(tmp_path)
    assert (tokenizer.user, tokenizer.assistant) == ("User", "Assistant")
    prompt = tokenizer.image_generation_prompt("a red circle")
    assert prompt[1] == ids["User"] and prompt[-3] == ids["Assistant"]
    assert prompt[-1] == tokenizer.boi_id
    assert ids["User"] in tokenizer.question_prompt("how many?", 3)


def test_a_turn_with_pictures_is_stripped_as_a_whole():
    # Janus's processor does so, and keeps the line end between a picture and the question.
    tokenizer = TextTokenizer(byte_tokenizer())
    ids = tokenizer.content_prompt("\nwhy? ", 2, 3, system="Think.")
    marks = (
        f"{JANUS_TEMPLATE.begin_of_image}{JANUS_TEMPLATE.image * 3}{JANUS_TEMPLATE.end_of_image}"
    )
    text = f"Think.\n\n<|User|>: {marks * 2}\nwhy?\n\n<|Assistant|>:"
    assert ids == [tokenizer.bos_id, *tokenizer.encode(text)]
    assert tokenizer.content_prompt(" why? ", 0, 3) == tokenizer.content_prompt("why?", 0, 3)

    plain = tokenizer.content_prompt("why?", 0, 3, plain_roles=True)
    assert plain == [tokenizer.bos_id, *tokenizer.encode("User: why?\n\nAssistant:")]
