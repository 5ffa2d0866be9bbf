"""Exported folders without their weights: the processor of transformers makes our token ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers, trainers

from corl_jax.data.images import preprocess
from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.vocabulary import build_tokenizer, write_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad
from corl_jax.models.janus.config import TINY
from corl_jax.porting.janus.folder import JanusFolder
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.janus.sidecar_files import write_sidecar_files
from corl_jax.porting.policy_source import tiny_folder

pytest.importorskip(
    "torch",
    reason="transformers' processor needs torch: pip install -e '.[test]' (Python 3.11)",
)
import transformers  # noqa: E402

QUESTIONS = ["what colour is the circle?", "is there a circle above a square?", " one?\n\nA B "]
CAPTIONS = ["a red circle", "two blue squares and a green triangle", " three objects "]


def byte_level_tokenizer(roles_are_tokens=True):
    """A tokenizer like the published ones: byte pairs, in which every space and line end counts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = JANUS_TEMPLATE
    special_tokens = template.special_tokens if roles_are_tokens else template.required_tokens
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special_tokens),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*QUESTIONS, *CAPTIONS] * 3, trainer)
    return tokenizer


def write_source(folder, tokenizer, **config):
    """A model folder's small files, as scripts leave them."""
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def export(source, out, layout="transformers"):
    """Writes the small files of an export; returns the tokenizer that they come from."""
    out.mkdir()
    tokenizer = TextTokenizer.load(source)
    write_sidecar_files(TINY, tokenizer, source, out, LAYOUTS[layout], "float32")
    return tokenizer


def conversation(text, image=None):
    parts = [{"type": "text", "text": text}]
    parts = parts if image is None else [{"type": "image", "image": image}, *parts]
    return [{"role": "user", "content": parts}]


def check_prompts(folder, tokenizer, images):
    """Documented code gives the prompts and the pixels of corl_jax, also in batches."""
    processor = transformers.AutoProcessor.from_pretrained(folder)

    # Questions about images.
    chats = [conversation(q, image) for q, image in zip(QUESTIONS, images, strict=True)]
    batch = processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        generation_mode="text",
        tokenize=True,
        padding=True,
        return_dict=True,
        return_tensors="np",
    )
    rows = [tokenizer.question_prompt(question, TINY.image_tokens) for question in QUESTIONS]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    np.testing.assert_array_equal(batch["input_ids"], tokens)
    np.testing.assert_array_equal(batch["attention_mask"], mask)
    expected = np.stack([preprocess(image, TINY.image_size) for image in images])
    pixels = np.transpose(batch["pixel_values"], (0, 2, 3, 1))
    np.testing.assert_allclose(pixels, expected, atol=1e-5)

    # Images of captions.
    texts = [
        processor.apply_chat_template(conversation(caption), add_generation_prompt=True)
        for caption in CAPTIONS
    ]
    batch = processor(text=texts, generation_mode="image", padding=True, return_tensors="np")
    rows = [tokenizer.image_generation_prompt(caption) for caption in CAPTIONS]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    np.testing.assert_array_equal(batch["input_ids"], tokens)
    np.testing.assert_array_equal(batch["attention_mask"], mask)

    # Answers are decoded alike, with their tags and without special tokens.
    ids = [*tokenizer.encode("<think> a red circle </think> <answer> one </answer>")]
    ids = [*ids, tokenizer.eos_id, tokenizer.pad_id]
    assert processor.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


@pytest.fixture
def images(rng):
    """A square, a wide and a tall image; no side is rounded."""
    sizes = [(48, 48), (24, 96), (96, 24)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def test_the_embedded_world(tokenizer_folder, images, tmp_path):
    tokenizer = export(tokenizer_folder, tmp_path / "out")
    check_prompts(tmp_path / "out", tokenizer, images)


@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_both_layouts_add_begin_of_sentence_once(layout, tmp_path):
    source = write_source(tmp_path / "source", byte_level_tokenizer())
    tokenizer = export(source, tmp_path / "out", layout)
    auto_tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    ids = auto_tokenizer("a red circle")["input_ids"]
    assert ids == [tokenizer.bos_id, *tokenizer.encode("a red circle")]

    # The files are read back, and a second export changes nothing.
    repeated = export(tmp_path / "out", tmp_path / "again", layout)
    assert repeated.same_ids(tokenizer)
    for file in sorted((tmp_path / "out").iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False},
        {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "add_eos_token": True},
        {"padding_side": "right", "model_max_length": 16384, "chat_template": "{{ bos_token }}"},
        {"additional_special_tokens": ["<answer>"], "clean_up_tokenization_spaces": True},
    ],
)
def test_settings_of_a_source_do_not_change_prompts(config, images, tmp_path):
    source = write_source(tmp_path / "source", byte_level_tokenizer(), unknown_entry=1, **config)
    (source / "special_tokens_map.json").write_text('{"pad_token": "<answer>"}', "utf-8")
    (source / "added_tokens.json").write_text('{"<|User|>": 6}', "utf-8")
    (source / "chat_template.json").write_text('{"chat_template": "nothing"}', "utf-8")
    tokenizer = export(source, tmp_path / "out")
    check_prompts(tmp_path / "out", tokenizer, images)

    # Entries that are not known here are kept.
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8"))
    assert written["unknown_entry"] == 1


def test_processor_settings_of_a_source_do_not_change_prompts(images, tmp_path):
    source = write_source(tmp_path / "source", byte_level_tokenizer())
    # As the converter of transformers writes it, and with blocks of its later versions.
    (source / "processor_config.json").write_text(
        json.dumps(
            {
                "use_default_system_prompt": True,
                "image_processor": {"image_processor_type": "JanusImageProcessor", "min_size": 40},
            }
        ),
        "utf-8",
    )
    (source / "config.json").write_text('{"model_type": "janus"}', "utf-8")
    tokenizer = export(source, tmp_path / "out")
    check_prompts(tmp_path / "out", tokenizer, images)


def test_truncation_and_padding_of_a_source_are_left_out(images, tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=20)
    source = write_source(tmp_path / "source", tokenizer)
    export(source, tmp_path / "out")
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert written.truncation is None and written.padding is None
    check_prompts(tmp_path / "out", TextTokenizer(byte_level_tokenizer()), images)


def test_no_class_of_transformers_rebuilds_the_tokenizer(tmp_path):
    source = write_source(tmp_path / "source", build_tokenizer(), tokenizer_class="LlamaTokenizer")
    tokenizer = export(source, tmp_path / "out")
    auto_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [tokenizer.bos_id, *tokenizer.encode("a red circle")]
    assert auto_tokenizer("a red circle")["input_ids"] == ids and len(ids) == 4


def test_special_flags_are_those_of_the_text_tokenizer(tmp_path):
    source = write_source(tmp_path / "source", byte_level_tokenizer())
    raw = json.loads((source / "tokenizer.json").read_text("utf-8"))
    for token in raw["added_tokens"]:
        token["special"] = False
    (source / "tokenizer.json").write_text(json.dumps(raw), "utf-8")

    tokenizer = export(source, tmp_path / "out")
    ids = [*tokenizer.encode("<|User|>: one"), tokenizer.pad_id, *tokenizer.encode(" circle")]
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    text = processor.decode(ids, skip_special_tokens=True)
    assert text == tokenizer.decode(ids) == ": one circle"


def test_the_tokenizer_of_a_script_that_truncates(test_data, tmp_path):
    source = test_data("data/cases") / "models" / "tok_after_truncating_call"
    export(source, tmp_path / "out")
    auto_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(auto_tokenizer("a red circle " * 50)["input_ids"]) == 151


def test_tags_that_a_script_added_as_special_tokens(test_data, tmp_path):
    source = test_data("data/cases") / "models" / "tok_tags_added_special"
    tokenizer = export(source, tmp_path / "out")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    text = "<think> a circle </think> <answer> one </answer>"
    ids = tokenizer.encode(text)
    assert processor.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids) == text


def test_roles_that_are_plain_words(images, tmp_path):
    source = write_source(tmp_path / "source", byte_level_tokenizer(roles_are_tokens=False))
    tokenizer = export(source, tmp_path / "out")
    assert (tokenizer.user, tokenizer.assistant) == ("User", "Assistant")
    check_prompts(tmp_path / "out", tokenizer, images)


def test_conversations(tokenizer_folder, tmp_path):
    export(tokenizer_folder, tmp_path / "out")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    image, text = {"type": "image"}, {"type": "text", "text": " how many? "}
    eos = JANUS_TEMPLATE.eos
    for chat, expected in (
        ([{"role": "system", "content": " be brief "}], "be brief\n\n"),
        ([{"role": "User", "content": [text, text]}], "<|User|>: how many? how many?\n\n"),
        (
            [{"role": "user", "content": [text, image, image, text]}],
            "<|User|>: how many?\n<image_placeholder>\n<image_placeholder>\nhow many?\n\n",
        ),
        (
            [{"role": "<|User|>", "content": "a"}, {"role": "assistant", "content": [text]}],
            f"<|User|>: a\n\n<|Assistant|>: how many?{eos}",
        ),
        ([{"role": "assistant", "content": ""}], f"<|Assistant|>:{eos}"),
    ):
        assert processor.apply_chat_template(chat) == expected
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
        assert prompt == expected + "<|Assistant|>:"


def test_prompts_of_many_records(tmp_path):
    tokenizer = export(write_tokenizer(tmp_path / "source"), tmp_path / "out")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    records = [example("train", i) for i in range(100)]
    for record in records:
        text = processor.apply_chat_template(
            conversation(record.question), add_generation_prompt=True
        )
        text = text.replace("<|User|>: ", "<|User|>: <image_placeholder>\n")
        rows = processor(text=text, images=Image.fromarray(record.image), return_tensors="np")
        assert rows["input_ids"][0].tolist() == tokenizer.question_prompt(
            record.question, TINY.image_tokens
        )


def test_the_shipped_base_is_an_export(tmp_path):
    folder = JanusFolder(tiny_folder())
    tokenizer = folder.load_tokenizer()
    layout = LAYOUTS["transformers"]
    write_sidecar_files(folder.cfg, tokenizer, folder.path, tmp_path, layout, "float32")
    names = [file.name for file in folder.path.iterdir() if file.suffix in (".json", ".jinja")]
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())
    for name in names:
        assert (folder.path / name).read_bytes() == (tmp_path / name).read_bytes(), name
