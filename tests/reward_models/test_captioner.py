"""The captioner: order of rows, vocabulary, a decoding loop without copies, errors of one line."""

from __future__ import annotations

import dataclasses
import json
import re
import time

import jax
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.bert.tokenizer import BERT_SPECIAL_TOKENS, word_pieces
from corl_jax.reward_models.blip.captioner import Captioner
from corl_jax.reward_models.blip.model import BlipConfig, BlipModel
from corl_jax.reward_models.blip.tokenizer import TINY_WORDS
from corl_jax.reward_models.blip.weights import CAPTIONER


@pytest.fixture(scope="module")
def sharder():
    """One device."""
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def tiny(sharder):
    """The tiny model, and its captioner."""
    model = load_reward_model(CAPTIONER, "tiny", sharder)
    return model, Captioner(model, sharder)


def test_tiny_writes_a_caption_for_every_row(tiny):
    _, captioner = tiny
    # More images than one call has rows.
    images = np.random.default_rng(3).integers(0, 256, (19, 20, 30, 3), dtype=np.uint8)
    tokens = captioner.caption_tokens(images, 6)
    captions = captioner.captions(images, 6)
    assert tokens.shape == (19, 6) and len(captions) == 19
    assert {word for caption in captions for word in caption.split()} <= set(TINY_WORDS)
    np.testing.assert_array_equal(captioner.caption_tokens(images[15:], 6), tokens[15:])
    assert captioner.captions(images[:0]) == []


def test_pieces_are_joined_to_words_as_in_bert():
    pieces = ["red", "##dish", "dog", "'", "s", ",", "a"]
    tokenizer = word_pieces(["[PAD]", "[SEP]", *pieces, "[CLS]", "[UNK]"], BERT_SPECIAL_TOKENS, "x")
    ids = [99, 8, 2, 3, 4, 5, 6, 7, 2, 1, 0, 0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a reddish dog ' s, red"


def test_no_cache_is_copied_inside_the_loop():
    cfg, rows, length = CAPTIONER.tiny_config, 3, 7
    cfg = dataclasses.replace(cfg, text=dataclasses.replace(cfg.text, depth=1))
    module = nnx.eval_shape(lambda: BlipModel(cfg, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((rows, 48, 48, 3), np.uint8)
    run = jax.jit(lambda params, images: bind(nnx.split(module)[0], params).greedy(images, length))
    hlo = run.lower(flatten_abstract(module), images).compile().as_text()
    cache = f"{rows},{cfg.text.heads},{length},{cfg.text.width // cfg.text.heads}"
    bodies = hlo[: hlo.index("\nENTRY")]
    assert re.search(rf"f32\[{cache}\]\S* (?:fusion|dynamic-update-slice)\(", bodies)
    assert not re.search(rf"f32\[{cache}\]\S* copy(?:-start)?\(", bodies)


def test_bad_input_is_named(tiny, sharder, tmp_path):
    model, captioner = tiny
    with pytest.raises(
        UserError, match="captions of this captioner must be 1 to 64 tokens long; got 65"
    ):
        captioner.captions(np.zeros((1, 8, 8, 3), np.uint8), 65)
    with pytest.raises(ValueError, match="uint8"):
        captioner.captions(np.zeros((1, 8, 8, 3)))

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="model_type in .* must be 'blip'; got 'clip'"):
        load_reward_model(CAPTIONER, str(tmp_path), sharder)

    # Tokenizers that are missing, of another model, or damaged.
    other_folder = dataclasses.replace(model, folder=tmp_path)
    with pytest.raises(UserError, match="must hold tokenizer.json or vocab.txt .*; got neither"):
        Captioner(other_folder, sharder)
    (tmp_path / "vocab.txt").write_text("red\n[PAD]\n[UNK]\n")
    with pytest.raises(UserError, match=r"lacks \[CLS\], \[SEP\]; take the tokenizer files"):
        Captioner(other_folder, sharder)
    (tmp_path / "vocab.txt").write_text("red\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(
        UserError, match=r"must have at most .* and '\[SEP\]' at id 3.*; got 5 tokens and '\[CLS"
    ):
        Captioner(other_folder, sharder)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer.json' is not JSON"):
        Captioner(other_folder, sharder)


@pytest.mark.full_size
def test_blip_base_at_full_size(sharder, capsys):
    """Prints seconds an image, with random weights.

    ``python -m pytest tests/reward_models/test_captioner.py -m full_size -s``
    """
    spec = dataclasses.replace(CAPTIONER, tiny_config=BlipConfig())
    model = load_reward_model(spec, "tiny", sharder)
    assert sum(leaf.size for leaf in model.params.values()) == 223_971_644
    images = np.random.default_rng(0).integers(0, 256, (16, 384, 384, 3), dtype=np.uint8)
    captioner = Captioner(model, sharder)
    times = []
    for _ in range(2):
        start_wall, start_cpu = time.monotonic(), time.process_time()
        tokens = captioner.caption_tokens(images, 50)
        times.append((time.monotonic() - start_wall, time.process_time() - start_cpu))
    assert tokens.shape == (16, 50) and tokens.max() < 30524
    longest = int((tokens != model.cfg.text.pad_id).sum(1).max())
    with capsys.disabled():
        (first, _), (wall, cpu) = times
        print(
            f"{wall / 16:.2f} s an image ({cpu / 16:.2f} s of CPU), {longest} tokens; "
            f"first run {first:.1f} s"
        )
