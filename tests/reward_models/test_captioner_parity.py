"""Captions and logits are those of transformers, token by token; the same on eight devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind
from corl_jax.data.images import resize_image
from corl_jax.reward_models.base import LoadedModel, load_reward_model
from corl_jax.reward_models.blip.captioner import Captioner
from corl_jax.reward_models.blip.model import normalize
from corl_jax.reward_models.blip.weights import CAPTIONER

TOKENS = 30

SMALL = {
    "uneven": (
        6,
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 3, "image_size": 32, "patch_size": 8},
        {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
         "num_attention_heads": 4, "max_position_embeddings": 40, "bos_token_id": 38,
         "sep_token_id": 3},
    ),
    "wide": (
        4,
        {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 2, "image_size": 24, "patch_size": 4, "layer_norm_eps": 1e-3},
        {"vocab_size": 61, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
         "max_position_embeddings": 32, "bos_token_id": 60, "sep_token_id": 5, "pad_token_id": 1,
         "layer_norm_eps": 1e-6},
    ),
}  # fmt: skip
"""Seed of the weights, vision and text sizes. One text part has the default number of heads."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model of transformers, and its captions of some images.

    Attributes:
      model: of transformers.
      folder: that it was saved to.
      images: uint8, of the model's size.
      pixels: the same images as transformers prepares them.
      captions: token ids of their captions by transformers, without the start id.
    """

    model: Any
    folder: Any
    images: np.ndarray
    pixels: Any
    captions: np.ndarray


def vocabulary(size: int, sep_id: int) -> list[str]:
    """Pieces with ``[SEP]`` at its id, two fewer than the model has ids."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "a", "##s", "'", ",", "."]
    words = [*words, *(f"w{i}" for i in range(size - 3 - len(words)))]
    return [*words[:sep_id], "[SEP]", *words[sep_id:]]


@pytest.fixture(scope="module", params=list(SMALL))
def reference(request, tmp_path_factory) -> Reference:
    """Torch writes the folder, with weights so that images matter and captions differ in length."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    from transformers import BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.set_num_threads(1)
    seed, vision, text = SMALL[request.param]
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text)).eval()

    generator = torch.Generator().manual_seed(seed)
    scales = {"word_embeddings": 0.2, "position_embeddings": 2.0, "_embedding": 1.0}
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=generator)
            matches = [
                scale for part, scale in scales.items() if part in name and "patch" not in name
            ]
            if matches:
                values = values * matches[0]
            elif leaf.ndim > 1:
                values = values * leaf[0].numel() ** -0.5 * (4 if "cross" in name else 1)
            else:
                values = 0.1 * values + float("norm" in name.lower() and name.endswith("weight"))
            leaf.copy_(values)
        model.text_decoder.cls.predictions.bias[text["sep_token_id"]] += 1.5

    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    words = vocabulary(text["vocab_size"], text["sep_token_id"])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")

    rng, side = np.random.default_rng(0), vision["image_size"]
    images = rng.integers(0, 256, (6, 1, 1, 3)) + rng.integers(-100, 100, (6, side, side, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    processor = BlipImageProcessorPil(size={"height": side, "width": side})
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    captions = model.generate(pixels, max_new_tokens=TOKENS, do_sample=False, num_beams=1)
    captions = captions.numpy()[:, 1:]
    ends = [
        row.tolist().index(text["sep_token_id"]) if text["sep_token_id"] in row else TOKENS
        for row in captions
    ]
    assert len(set(ends)) >= 4 and max(ends) == TOKENS, (
        "the weights should make captions of different lengths"
    )
    return Reference(model, folder, images, pixels, captions)


def make_sharder(**mesh: int) -> Sharder:
    """Over as many of the fake devices as ``mesh`` has."""
    return Sharder(make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))]))


def load_captioner(source: Any, **mesh: int) -> tuple[LoadedModel, Captioner]:
    """The model at ``source``, and its captioner."""
    sharder = make_sharder(**(mesh or {"data": 1}))
    model = load_reward_model(CAPTIONER, str(source), sharder)
    return model, Captioner(model, sharder)


def test_captions_are_those_of_transformers(reference):
    from transformers import BertTokenizer

    _, captioner = load_captioner(reference.folder)
    tokens = captioner.caption_tokens(reference.images, TOKENS)
    np.testing.assert_array_equal(tokens, reference.captions)

    tokenizer = BertTokenizer.from_pretrained(reference.folder)
    expected = tokenizer.batch_decode(reference.captions, skip_special_tokens=True)
    captions = captioner.captions(reference.images, TOKENS)
    assert captions == expected and len(set(captions)) > 3
    order = [3, 0, 5, 1]
    permuted = captioner.captions(reference.images[order], TOKENS)
    assert permuted == [captions[i] for i in order]


def test_teacher_forced_logits_are_those_of_transformers(reference):
    torch = pytest.importorskip("torch")
    model, _ = load_captioner(reference.folder)
    shape = (len(reference.images), TOKENS)
    ids = np.random.default_rng(1).integers(0, model.cfg.text.vocab_size, shape)
    with torch.no_grad():
        output = reference.model(pixel_values=reference.pixels, input_ids=torch.tensor(ids))
    expected = output.logits.numpy()
    logits = jax.jit(bind(model.graphdef, model.params).__call__)(reference.images, ids)
    difference = np.abs(np.asarray(logits) - expected).max() / np.abs(expected).max()
    # torch itself is 1.3e-5 off float64.
    assert np.std(expected) > 0.5
    assert difference < 3e-5, f"relative difference {difference:.1e}"


def test_images_of_another_size_are_prepared_as_by_transformers():
    processing = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")
    pytest.importorskip("torch")
    images = np.random.default_rng(2).integers(0, 256, (2, 31, 50, 3), dtype=np.uint8)
    processor = processing.BlipImageProcessorPil(size={"height": 24, "width": 24})
    expected = np.stack(processor(list(images))["pixel_values"]).transpose(0, 2, 3, 1)
    squares = np.stack([resize_image(image, (24, 24)) for image in images])
    np.testing.assert_allclose(normalize(squares), expected, atol=2e-6)


@pytest.mark.parametrize("reference", ["wide"], indirect=True)
def test_captions_are_the_same_on_eight_devices(reference):
    _, captioner = load_captioner(reference.folder, data=2, fsdp=2, tensor=2)
    tokens = captioner.caption_tokens(reference.images, 10)
    np.testing.assert_array_equal(tokens, reference.captions[:, :10])
