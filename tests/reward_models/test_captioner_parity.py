"""Captions token-equal to transformers' greedy ones, and logits beside its; the same on eight devices."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind
from corl_jax.data.images import resized
from corl_jax.reward_models.base import LoadedModel, load_reward_model
from corl_jax.reward_models.blip.captioner import Captioner
from corl_jax.reward_models.blip.model import normalise
from corl_jax.reward_models.blip.weights import CAPTIONER

os.environ["HF_HUB_OFFLINE"] = "1"
TOKENS = 30

SMALL = {
    "uneven": (
        6,
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
         "image_size": 32, "patch_size": 8},
        {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
         "num_attention_heads": 4, "max_position_embeddings": 40, "bos_token_id": 38, "sep_token_id": 3},
    ),
    "wide": (
        4,
        {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 2,
         "image_size": 24, "patch_size": 4, "layer_norm_eps": 1e-3},
        {"vocab_size": 61, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
         "max_position_embeddings": 32, "bos_token_id": 60, "sep_token_id": 5, "pad_token_id": 1,
         "layer_norm_eps": 1e-6},
    ),
}  # fmt: skip
"""Seed of the weights, vision and text sizes; what the text part leaves out has its default, heads among them."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """One model on both sides, and pictures of its own size with their foreign form."""

    theirs: Any
    folder: Any
    pictures: np.ndarray
    pixels: Any
    captions: np.ndarray


def vocabulary(size: int, sep_id: int) -> list[str]:
    """Pieces with ``[SEP]`` at its id, and two ids less than the model has."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "a", "##s", "'", ",", "."]
    words = [*words, *(f"w{i}" for i in range(size - 3 - len(words)))]
    return [*words[:sep_id], "[SEP]", *words[sep_id:]]


@pytest.fixture(scope="module", params=list(SMALL))
def pair(request, tmp_path_factory) -> Pair:
    """Torch writes the folder: weights such that pictures matter and captions end at different times."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    from transformers import BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.set_num_threads(1)
    seed, vision, text = SMALL[request.param]
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text)).eval()
    numbers = torch.Generator().manual_seed(seed)
    scales = {"word_embeddings": 0.2, "position_embeddings": 2.0, "_embedding": 1.0}
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=numbers)
            known = [
                scale for part, scale in scales.items() if part in name and "patch" not in name
            ]
            if known:
                values = values * known[0]
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
    pictures = rng.integers(0, 256, (6, 1, 1, 3)) + rng.integers(-100, 100, (6, side, side, 3))
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)
    processor = BlipImageProcessorPil(size={"height": side, "width": side})
    pixels = processor(list(pictures), return_tensors="pt")["pixel_values"]
    captions = model.generate(pixels, max_new_tokens=TOKENS, do_sample=False, num_beams=1).numpy()[
        :, 1:
    ]
    ends = [
        row.tolist().index(text["sep_token_id"]) if text["sep_token_id"] in row else TOKENS
        for row in captions
    ]
    assert len(set(ends)) >= 4 and max(ends) == TOKENS, (
        "the weights should make captions of different lengths"
    )
    return Pair(model, folder, pictures, pixels, captions)


def sharder(**mesh: int) -> Sharder:
    """Over as many of the fake devices as ``mesh`` says."""
    return Sharder(make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))]))


def opened(source: Any, **mesh: int) -> tuple[LoadedModel, Captioner]:
    """The net at ``source`` and its wrapper."""
    over = sharder(**(mesh or {"data": 1}))
    net = load_reward_model(CAPTIONER, str(source), over)
    return net, Captioner(net, over)


def test_captions_are_those_of_transformers(pair):
    net, captioner = opened(pair.folder)
    np.testing.assert_array_equal(captioner.tokens(pair.pictures, TOKENS), pair.captions)
    from transformers import BertTokenizer

    theirs = BertTokenizer.from_pretrained(pair.folder).batch_decode(
        pair.captions, skip_special_tokens=True
    )
    ours = captioner.captions(pair.pictures, TOKENS)
    assert ours == theirs and len(set(ours)) > 3
    order = [3, 0, 5, 1]
    assert captioner.captions(pair.pictures[order], TOKENS) == [ours[i] for i in order]


def test_teacher_forced_logits_are_those_of_transformers(pair):
    torch = pytest.importorskip("torch")
    net, _ = opened(pair.folder)
    ids = np.random.default_rng(1).integers(
        0, net.cfg.text.vocab_size, (len(pair.pictures), TOKENS)
    )
    with torch.no_grad():
        theirs = pair.theirs(pixel_values=pair.pixels, input_ids=torch.tensor(ids)).logits.numpy()
    ours = jax.jit(bind(net.graphdef, net.params).__call__)(pair.pictures, ids)
    gap = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert np.std(theirs) > 0.5 and gap < 3e-5, (
        f"relative difference {gap:.1e}"
    )  # torch itself is 1.3e-5 off float64


def test_pictures_of_another_size_are_prepared_as_by_transformers():
    processing = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")
    pytest.importorskip("torch")
    pictures = np.random.default_rng(2).integers(0, 256, (2, 31, 50, 3), dtype=np.uint8)
    processor = processing.BlipImageProcessorPil(size={"height": 24, "width": 24})
    theirs = np.stack(processor(list(pictures))["pixel_values"]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(
        normalise(np.stack([resized(picture, (24, 24)) for picture in pictures])), theirs, atol=2e-6
    )


@pytest.mark.parametrize("pair", ["wide"], indirect=True)
def test_the_same_on_eight_devices(pair):
    _, captioner = opened(pair.folder, data=2, fsdp=2, tensor=2)
    np.testing.assert_array_equal(captioner.tokens(pair.pictures, 10), pair.captions[:, :10])
