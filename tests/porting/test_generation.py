"""Whole generations against transformers: greedy, left-padded batches included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.types import Prompts
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds

PROMPTS = [
    "two blue squares and a green triangle left of a red circle",
    "a red circle",
    "a green square",
]
QUESTIONS = ["how many objects are there?", "is there a circle?", "what is left of the red square?"]


def greedy_keys(rows):
    return jax.random.split(jax.random.key(0), (rows, 1))


@pytest.mark.parametrize("guidance", [1.5, 5.0])
def test_greedy_guided_image_tokens_are_equal(pair, torch, tokenizer, guidance):
    rows = [tokenizer.drawing_prompt(prompt) for prompt in PROMPTS]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    assert not mask.all()
    settings = pair.theirs.generation_config
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = (
        tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)  # fmt: skip
    settings.generation_kwargs = {"boi_token_id": tokenizer.boi_id}
    theirs = pair.theirs.generate(
        torch.from_numpy(tokens.astype(np.int64)), attention_mask=torch.from_numpy(mask.astype(np.int64)),
        generation_mode="image", do_sample=False, guidance_scale=guidance, use_cache=True)  # fmt: skip
    ids = SpecialTokenIds(tokenizer.pad_id, tokenizer.eos_id, tokenizer.image_id, ())
    sampler = PolicyFns(pair.graphdef, pair.cfg, ids)
    sampling = sampler.sampling("image", guidance=guidance, temperature=0.0)
    ours = sampler.sample_images(pair.params, Prompts(tokens, mask), greedy_keys(3), sampling)
    assert theirs.shape == (3, pair.cfg.image_tokens)
    np.testing.assert_array_equal(ours.tokens[:, 0], theirs)
    assert len(np.unique(ours.tokens)) > 8
    with torch.no_grad():
        pictures = (pair.theirs.decode_image_tokens(theirs).numpy() + 1) / 2 * 255
    expected = np.clip(pictures, 0, 255).astype(np.uint8)
    gap = np.abs(expected.astype(int) - np.asarray(ours.pixels[:, 0], int))
    assert (
        gap.max() <= 1 and (gap > 0).mean() < 0.01
    )  # a number on the edge between two bytes may fall either way


def test_greedy_answers_are_equal(pair, torch, tokenizer, rng):
    rows = [tokenizer.question_prompt(question, pair.cfg.image_tokens) for question in QUESTIONS]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    assert not mask.all()
    side, length = pair.cfg.vision.image_size, 12
    images = rng.uniform(-1, 1, (3, side, side, 3)).astype(np.float32)
    banned = (*range(8, 20), tokenizer.pad_id, tokenizer.image_id)
    with torch.no_grad():
        theirs = pair.theirs.generate(
            torch.from_numpy(tokens.astype(np.int64)), attention_mask=torch.from_numpy(mask.astype(np.int64)),
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), generation_mode="text", do_sample=False,
            max_new_tokens=length, suppress_tokens=list(banned), eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id)[:, tokens.shape[1] :].numpy()  # fmt: skip
    ids = SpecialTokenIds(tokenizer.pad_id, tokenizer.eos_id, tokenizer.image_id, banned)
    sampler = PolicyFns(pair.graphdef, pair.cfg, ids)
    sampling = sampler.sampling("text", temperature=0.0)
    ours = sampler.write(
        pair.params, Prompts(tokens, mask, jnp.asarray(images)), greedy_keys(3), sampling, length
    )
    np.testing.assert_array_equal(ours.tokens[:, 0, : theirs.shape[1]], theirs)
    assert not np.isin(ours.tokens[np.asarray(ours.mask)], banned).any()
    assert len(np.unique(theirs)) > 5
