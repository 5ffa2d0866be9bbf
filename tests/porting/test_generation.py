"""Complete greedy generations equal those of transformers, also in left-padded batches."""

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
def test_greedy_guided_image_tokens_are_equal(model_pair, torch, tokenizer, guidance):
    rows = [tokenizer.image_generation_prompt(prompt) for prompt in PROMPTS]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    assert not mask.all()

    settings = model_pair.torch_model.generation_config
    settings.bos_token_id = tokenizer.bos_id
    settings.eos_token_id = tokenizer.eos_id
    settings.pad_token_id = tokenizer.pad_id
    settings.generation_kwargs = {"boi_token_id": tokenizer.boi_id}
    expected = model_pair.torch_model.generate(
        torch.from_numpy(tokens.astype(np.int64)),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        generation_mode="image",
        do_sample=False,
        guidance_scale=guidance,
        use_cache=True,
    )

    ids = SpecialTokenIds(tokenizer.pad_id, tokenizer.eos_id, tokenizer.image_id, ())
    policy = PolicyFns(model_pair.graphdef, model_pair.cfg, ids)
    sampling = policy.sampling_params("image", guidance=guidance, temperature=0.0)
    rollouts = policy.sample_images(
        model_pair.params, Prompts(tokens, mask), greedy_keys(3), sampling
    )
    assert expected.shape == (3, model_pair.cfg.image_tokens)
    np.testing.assert_array_equal(rollouts.tokens[:, 0], expected)
    assert len(np.unique(rollouts.tokens)) > 8

    with torch.no_grad():
        images = model_pair.torch_model.decode_image_tokens(expected).numpy()
    expected_pixels = np.clip((images + 1) / 2 * 255, 0, 255).astype(np.uint8)
    pixels = np.asarray(rollouts.pixels[:, 0], int)
    differences = np.abs(expected_pixels.astype(int) - pixels)

    # A number on the edge between two bytes may be rounded either way.
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01


def test_greedy_answers_are_equal(model_pair, torch, tokenizer, rng):
    rows = [
        tokenizer.question_prompt(question, model_pair.cfg.image_tokens) for question in QUESTIONS
    ]
    tokens, mask = left_pad(rows, tokenizer.pad_id, multiple=1)
    assert not mask.all()
    side, length = model_pair.cfg.vision.image_size, 12
    images = rng.uniform(-1, 1, (3, side, side, 3)).astype(np.float32)
    banned = (*range(8, 20), tokenizer.pad_id, tokenizer.image_id)

    with torch.no_grad():
        prompts_and_answers = model_pair.torch_model.generate(
            torch.from_numpy(tokens.astype(np.int64)),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
            generation_mode="text",
            do_sample=False,
            max_new_tokens=length,
            suppress_tokens=list(banned),
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    expected = prompts_and_answers[:, tokens.shape[1] :].numpy()

    ids = SpecialTokenIds(tokenizer.pad_id, tokenizer.eos_id, tokenizer.image_id, banned)
    policy = PolicyFns(model_pair.graphdef, model_pair.cfg, ids)
    sampling = policy.sampling_params("text", temperature=0.0)
    prompts = Prompts(tokens, mask, jnp.asarray(images))
    rollouts = policy.sample_text(model_pair.params, prompts, greedy_keys(3), sampling, length)
    np.testing.assert_array_equal(rollouts.tokens[:, 0, : expected.shape[1]], expected)
    assert not np.isin(rollouts.tokens[np.asarray(rollouts.mask)], banned).any()
    assert len(np.unique(expected)) > 5
