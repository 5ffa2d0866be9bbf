"""CLIP's cosines of images and texts: as in transformers, rows in order, devices agree."""

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
from corl_jax.reward_models.clip.text_image import ClipSimilarity, resize_and_crop
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
    """More images than one call has rows, and as many texts."""
    images = np.random.default_rng(0).integers(0, 256, (19, 40, 56, 3), dtype=np.uint8)
    return images, [f"{text} {i}" for i, text in enumerate((TEXTS * 4)[:19])]


def test_rows_keep_their_order(tiny, rows):
    images, texts = rows
    cosines = tiny.cosine(images, texts)
    assert cosines.shape == (19,) and cosines.dtype == np.float32 and cosines.std() > 1e-3
    assert (np.abs(cosines) <= 1 + 1e-6).all()
    order = np.random.default_rng(1).permutation(19)
    permuted = tiny.cosine(images[order], [texts[i] for i in order])
    np.testing.assert_allclose(permuted, cosines[order], atol=1e-6)
    np.testing.assert_allclose(tiny.cosine(images[:1], texts[:1]), cosines[:1], atol=1e-6)
    assert tiny.cosine(images[:0], []).shape == (0,)
    assert tiny._program._cache_size() == 1  # one program, whatever the number of rows


def test_eight_devices_give_the_same(tiny, rows):
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    sharded = ClipSimilarity(load_reward_model(CLIP, "tiny", sharder), sharder)
    np.testing.assert_allclose(sharded.cosine(*rows), tiny.cosine(*rows), atol=1e-5)


@pytest.mark.parametrize("shape", [(49, 33), (33, 50), (24, 24), (20, 91), (25, 24)])
def test_images_are_prepared_as_in_transformers(shape, rng):
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = processors.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size=24, do_normalize=False, do_rescale=False
    )
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(processor(image)["pixel_values"][0]).transpose(1, 2, 0)
    np.testing.assert_array_equal(resize_and_crop(image, 24), expected)


@pytest.fixture(scope="module")
def tokenizer_case(tmp_path_factory):
    """A tokenizer trained on ``TEXTS``, its folder, its numbers of ids and merges."""
    from tokenizers import models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    trained = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([text.lower() for text in TEXTS for _ in range(3)], trainer)

    # All bytes must be in the vocabulary, at the end of a word as well.
    bpe = json.loads(trained.to_str())["model"]
    tokens = dict.fromkeys(
        [*bpe["vocab"], *(f"{letter}</w>" for letter in sorted(letters)), START, END]
    )
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in bpe["merges"]]

    # Both forms of its files.
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return tokenizer, folder, len(vocab), len(merges)


@pytest.fixture(scope="module")
def reference(tokenizer_case, sharder, tmp_path_factory):
    """torch, a model and a tokenizer of transformers, and the folder that both were saved to."""
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
    tokenizer, folder, vocab_size, _ = tokenizer_case
    config = CLIPConfig(
        text_config=small | {"vocab_size": vocab_size, "eos_token_id": tokenizer.eos_token_id},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.mul_(3.0)  # so that rows differ
    model.save_pretrained(folder)
    return torch, model, tokenizer, folder


def test_cosines_of_images_and_texts_are_those_of_transformers(reference, sharder, rows):
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    torch, torch_model, tokenizer, folder = reference
    processor = processors.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    images, texts = rows
    ids = tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    pixels = torch.from_numpy(np.stack(processor(list(images))["pixel_values"]))
    with torch.no_grad():
        output = torch_model(input_ids=ids, pixel_values=pixels)
        expected = (output.image_embeds * output.text_embeds).sum(-1).numpy()
    assert expected.std() > 1e-3

    similarity = ClipSimilarity(load_reward_model(CLIP, str(folder), sharder), sharder)
    cosines = similarity.cosine(images, texts)
    difference = np.abs(cosines - expected).max()
    print(f"cosines differ by {difference:.1e} of {np.abs(expected).max():.2f}")
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_texts_are_cut_as_in_transformers(reference, tokenizer_case, sharder):
    _, _, tokenizer, folder = reference
    assert tokenizer_case[3] > 20
    model = load_reward_model(CLIP, str(folder), sharder)
    kwargs = {"padding": "max_length", "max_length": 77, "truncation": True}
    expected = tokenizer(list(TEXTS), **kwargs).input_ids
    ids = ClipTokenizer.from_model(model)(TEXTS)
    np.testing.assert_array_equal(ids, expected)
    assert ids[4, -1] == tokenizer.eos_token_id
    assert ids[2, :2].tolist() == [tokenizer.bos_token_id, tokenizer.eos_token_id]

    # vocab.json and merges.txt alone give the same ids.
    (folder / "tokenizer.json").rename(folder / "hidden")
    try:
        np.testing.assert_array_equal(ClipTokenizer.from_model(model)(TEXTS), expected)
    finally:
        (folder / "hidden").rename(folder / "tokenizer.json")


def test_bad_input_is_named(tiny, reference, sharder, tmp_path, rows):
    with pytest.raises(ValueError, match="one text for each image; got 19 images and 2 texts"):
        tiny.cosine(rows[0], ["a", "b"])

    # Tokenizers that are missing, damaged, too large, or of another model.
    model = load_reward_model(CLIP, str(reference[3]), sharder)
    other_folder = dataclasses.replace(model, folder=tmp_path)
    with pytest.raises(
        UserError,
        match="must hold tokenizer.json, or vocab.json and merges.txt; got neither.*Put the",
    ):
        ClipSimilarity(other_folder, sharder)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        UserError, match="model in tokenizer.json of .* must be a JSON object; got nothing"
    ):
        ClipSimilarity(other_folder, sharder)
    smaller = dataclasses.replace(model, cfg=dataclasses.replace(model.cfg, vocab_size=100))
    with pytest.raises(
        UserError,
        match=r"at most the 100 ids of its model; got \d+. Take the files of one checkpoint",
    ):
        ClipSimilarity(smaller, sharder)
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    word_level.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        UserError,
        match=r"must be that of a CLIP; got one without <\|startoftext\|> and <\|endoftext\|>",
    ):
        ClipSimilarity(other_folder, sharder)
