"""CLIP's similarity from pictures and texts on: preparation as transformers does it, rows in order, devices alike."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.clip.text_image import ClipSimilarity, cropped
from corl_jax.reward_models.clip.tokenizer import END, START, ClipTokenizer
from corl_jax.reward_models.clip.weights import CLIP

TEXTS = (
    "a red circle left of a blue square",
    "It's 12  o'clock,\nISN'T it?!",
    "",
    "Ünïcode cafés in 東京 \U0001f600",
    "word " * 200,
    "the last row",
)


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def tiny(sharder):
    return ClipSimilarity(load_reward_model(CLIP, "tiny", sharder), sharder)


@pytest.fixture(scope="module")
def rows():
    """More pictures than one call takes, and as many texts."""
    pictures = np.random.default_rng(0).integers(0, 256, (19, 40, 56, 3), dtype=np.uint8)
    return pictures, [f"{text} {i}" for i, text in enumerate((TEXTS * 4)[:19])]


def test_rows_keep_their_order(tiny, rows):
    pictures, texts = rows
    values = tiny.cosine(pictures, texts)
    assert values.shape == (19,) and values.dtype == np.float32 and values.std() > 1e-3
    assert (np.abs(values) <= 1 + 1e-6).all()
    order = np.random.default_rng(1).permutation(19)
    np.testing.assert_allclose(
        tiny.cosine(pictures[order], [texts[i] for i in order]), values[order], atol=1e-6
    )
    np.testing.assert_allclose(tiny.cosine(pictures[:1], texts[:1]), values[:1], atol=1e-6)
    assert tiny.cosine(pictures[:0], []).shape == (0,)
    assert tiny._run._cache_size() == 1  # one program, whatever the number of rows


def test_eight_devices_give_the_same(tiny, rows):
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    many = ClipSimilarity(load_reward_model(CLIP, "tiny", sharder), sharder)
    np.testing.assert_allclose(many.cosine(*rows), tiny.cosine(*rows), atol=1e-5)


@pytest.mark.parametrize("shape", [(49, 33), (33, 50), (24, 24), (20, 91), (25, 24)])
def test_pictures_are_prepared_as_transformers_does(shape, rng):
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    theirs = processors.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size=24, do_normalize=False, do_rescale=False
    )
    picture = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = np.asarray(theirs(picture)["pixel_values"][0]).transpose(1, 2, 0)
    np.testing.assert_array_equal(cropped(picture, 24), wanted)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Transformers' tokenizer with a vocabulary learnt from our texts, and the folder that holds its files."""
    from tokenizers import models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator([text.lower() for text in TEXTS for _ in range(3)], trainer)
    learnt = json.loads(learner.to_str())["model"]
    names = dict.fromkeys(
        [*learnt["vocab"], *(f"{letter}</w>" for letter in sorted(letters)), START, END]
    )
    vocab, merges = (
        {name: i for i, name in enumerate(names)},
        [tuple(merge) for merge in learnt["merges"]],
    )
    folder = tmp_path_factory.mktemp("words")
    theirs = CLIPTokenizer(vocab=vocab, merges=merges)
    theirs.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return theirs, folder, len(vocab), len(merges)


@pytest.fixture(scope="module")
def whole(words, sharder, tmp_path_factory):
    """A folder with all that a CLIP needs, as transformers writes it, and both sides of it."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    from transformers import CLIPConfig, CLIPModel

    small = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
    }
    theirs, folder, size, _ = words
    config = CLIPConfig(
        text_config=small | {"vocab_size": size, "eos_token_id": theirs.eos_token_id},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.mul_(3.0)  # so that rows differ
    model.save_pretrained(folder)
    return torch, model, theirs, folder


def test_cosines_are_those_of_transformers_from_pictures_and_texts_on(whole, sharder, rows):
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    torch, model, tokenizer, folder = whole
    processor = processors.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    pictures, texts = rows
    ids = tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    pixels = torch.from_numpy(np.stack(processor(list(pictures))["pixel_values"]))
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
        wanted = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    assert wanted.std() > 1e-3
    found = ClipSimilarity(load_reward_model(CLIP, str(folder), sharder), sharder).cosine(
        pictures, texts
    )
    print(f"cosines differ by {np.abs(found - wanted).max():.1e} of {np.abs(wanted).max():.2f}")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_texts_are_cut_as_transformers_does(whole, words, sharder):
    theirs, folder = whole[2], whole[3]
    assert words[3] > 20
    net = load_reward_model(CLIP, str(folder), sharder)
    wanted = theirs(list(TEXTS), padding="max_length", max_length=77, truncation=True).input_ids
    found = ClipTokenizer.of(net)(TEXTS)
    np.testing.assert_array_equal(found, wanted)
    assert found[4, -1] == theirs.eos_token_id and found[2, :2].tolist() == [
        theirs.bos_token_id,
        theirs.eos_token_id,
    ]
    (folder / "tokenizer.json").rename(folder / "aside")  # vocab.json and merges.txt say the same
    try:
        np.testing.assert_array_equal(ClipTokenizer.of(net)(TEXTS), wanted)
    finally:
        (folder / "aside").rename(folder / "tokenizer.json")


def test_refusals(tiny, whole, sharder, tmp_path, rows):
    with pytest.raises(ValueError, match="19 pictures and 2 texts; expected one for each"):
        tiny.cosine(rows[0], ["a", "b"])
    net = load_reward_model(CLIP, str(whole[3]), sharder)
    bare = dataclasses.replace(net, folder=tmp_path)
    with pytest.raises(
        UserError,
        match="no tokenizer.json, and no vocab.json with merges.txt, in .*put the tokenizer",
    ):
        ClipSimilarity(bare, sharder)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer in .* cannot be read .*get its files again"):
        ClipSimilarity(bare, sharder)
    smaller = dataclasses.replace(net, cfg=dataclasses.replace(net.cfg, vocab_size=100))
    with pytest.raises(UserError, match="ids, its model 100; take the files of one checkpoint"):
        ClipSimilarity(smaller, sharder)
    other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        UserError,
        match=r"lacks <\|startoftext\|> and <\|endoftext\|>; expected the tokenizer of a CLIP",
    ):
        ClipSimilarity(bare, sharder)
