"""The captioner's wrapper: rows in order, words of its vocabulary, a loop that copies nothing, errors of one line."""

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
from corl_jax.reward_models.blip.captioner import Captioner
from corl_jax.reward_models.blip.model import CaptionerConfig, CaptionNet
from corl_jax.reward_models.blip.tokenizer import TINY_WORDS, word_pieces
from corl_jax.reward_models.blip.weights import CAPTIONER


@pytest.fixture(scope="module")
def here():
    """The first device alone."""
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def tiny(here):
    """The tiny twin, and its wrapper."""
    net = load_reward_model(CAPTIONER, "tiny", here)
    return net, Captioner(net, here)


def test_tiny_speaks_and_counts_its_rows(tiny):
    net, captioner = tiny
    pictures = np.random.default_rng(3).integers(
        0, 256, (19, 20, 30, 3), dtype=np.uint8
    )  # more than one run takes
    tokens, captions = captioner.tokens(pictures, 6), captioner.captions(pictures, 6)
    assert tokens.shape == (19, 6) and len(captions) == 19
    assert {word for caption in captions for word in caption.split()} <= set(TINY_WORDS)
    np.testing.assert_array_equal(captioner.tokens(pictures[15:], 6), tokens[15:])
    assert captioner.captions(pictures[:0]) == []


def test_words_are_put_together_as_bert_does():
    pieces = word_pieces(["[PAD]", "[SEP]", "red", "##dish", "dog", "'", "s", ",", "a"])
    assert (
        pieces.decode([99, 8, 2, 3, 4, 5, 6, 7, 2, 1, 0, 0], skip_special_tokens=True)
        == "a reddish dog ' s, red"
    )


def test_no_cache_is_copied_inside_the_loop():
    cfg, rows, tokens = CAPTIONER.tiny, 3, 7
    cfg = dataclasses.replace(cfg, text=dataclasses.replace(cfg.text, depth=1))
    model = nnx.eval_shape(lambda: CaptionNet(cfg, rngs=nnx.Rngs(0)))
    pictures = jax.ShapeDtypeStruct((rows, 48, 48, 3), np.uint8)
    run = jax.jit(
        lambda params, pictures: bind(nnx.split(model)[0], params).greedy(pictures, tokens)
    )
    text = run.lower(flatten_abstract(model), pictures).compile().as_text()
    cache = f"{rows},{cfg.text.heads},{tokens},{cfg.text.width // cfg.text.heads}"
    bodies = text[: text.index("\nENTRY")]
    assert re.search(rf"f32\[{cache}\]\S* (?:fusion|dynamic-update-slice)\(", bodies)
    assert not re.search(rf"f32\[{cache}\]\S* copy(?:-start)?\(", bodies)


def test_bad_input_is_named(tiny, here, tmp_path):
    net, captioner = tiny
    with pytest.raises(UserError, match="captions of 65 tokens; this captioner writes 1 to 64"):
        captioner.captions(np.zeros((1, 8, 8, 3), np.uint8), 65)
    with pytest.raises(ValueError, match="uint8"):
        captioner.captions(np.zeros((1, 8, 8, 3)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="holds a model of type 'clip'; expected 'blip'"):
        load_reward_model(CAPTIONER, str(tmp_path), here)
    somewhere = dataclasses.replace(net, folder=tmp_path)
    with pytest.raises(UserError, match="no tokenizer.json and no vocab.txt"):
        Captioner(somewhere, here)
    (tmp_path / "vocab.txt").write_text("red\ngreen\n")
    with pytest.raises(UserError, match="2 tokens and id 3 is None; expected at most"):
        Captioner(somewhere, here)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer.json' cannot be read as a tokenizer"):
        Captioner(somewhere, here)


@pytest.mark.full_size
def test_blip_base_at_full_size(here, capsys):
    """Random weights: ``python -m pytest tests/rewards/test_captioner.py -m full_size -s`` prints seconds a picture."""
    kind = dataclasses.replace(CAPTIONER, tiny=CaptionerConfig())
    net = load_reward_model(kind, "tiny", here)
    assert sum(leaf.size for leaf in net.params.values()) == 223_971_644
    pictures = np.random.default_rng(0).integers(0, 256, (16, 384, 384, 3), dtype=np.uint8)
    captioner = Captioner(net, here)
    took = []
    for _ in range(2):
        began = time.monotonic(), time.process_time()
        tokens = captioner.tokens(pictures, 50)
        took.append((time.monotonic() - began[0], time.process_time() - began[1]))
    assert tokens.shape == (16, 50) and tokens.max() < 30524
    longest = int((tokens != net.cfg.text.pad_id).sum(1).max())
    with capsys.disabled():
        (first, _), (wall, cpu) = took
        print(
            f"{wall / 16:.2f} s a picture ({cpu / 16:.2f} s of CPU), {longest} tokens; first run {first:.1f} s"
        )
