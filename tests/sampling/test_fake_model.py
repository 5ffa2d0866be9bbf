"""Sampling and log-probs of a model of another family than Janus, by ``models.interface`` alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.trees import flatten
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.layers import linear
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.sampling.policy_handle import RewardPolicyHandle
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

GROUP = 3


@dataclasses.dataclass(frozen=True)
class FakeSizes:
    text_vocab_size: int = 72
    image_vocab_size: int = 8
    image_tokens: int = 4
    image_size: int = 16


class FakeModel(nnx.Module):
    """Predicts a token from the one before it.

    The backbone has no attention, and image tokens are levels of grey.
    """

    def __init__(self, cfg, rngs):
        self.cfg, self.backbone, self.image_tokenizer = cfg, FakeBackbone(rngs), FakeTokenizer()
        self.text_embed = nnx.Embed(cfg.text_vocab_size, 16, rngs=rngs)
        self.embed_image_tokens = nnx.Embed(cfg.image_vocab_size, 16, rngs=rngs)
        axes = {"bias": False, "dtype": jnp.float32, "rngs": rngs}
        self.text_head = linear(16, cfg.text_vocab_size, ("embed", "vocab"), **axes)
        self.image_head = linear(16, cfg.image_vocab_size, ("embed", "codes"), **axes)
        self.text_logits, self.image_logits = self.text_head, self.image_head

    def embed_text(self, tokens):
        return self.text_embed(tokens)

    def embed_prompt(self, tokens, images, image_id):
        x = self.text_embed(tokens)
        return x if images is None else x + jnp.mean(images, (1, 2, 3))[:, None, None]


class FakeBackbone(nnx.Module):
    grows_cache = False

    def __init__(self, rngs):
        self.mix = nnx.Linear(16, 16, rngs=rngs)

    def __call__(self, x, positions, mask):
        return jnp.sin(3 * self.mix(x)), None

    def with_shared_prefix(self, prompts, completions):
        return self(*prompts)[0], self(*completions)[0]

    def separate_layers(self):
        return ()

    def empty_cache(self, rows, length):
        return KVCache.empty(1, rows, length, 1, 1, jnp.float32)

    def cached(self, x, positions, mask, cache, index, layers):
        return self(x, positions, mask)[0], cache


class FakeTokenizer(nnx.Module):
    def encode(self, images):
        grey = jnp.mean(images, (1, 2, 3))[:, None]
        return jnp.broadcast_to(jnp.int32(4 * grey + 4), (len(images), 4))

    def decode_pixels(self, tokens):
        grey = jnp.repeat(tokens.astype(jnp.uint8) * 32, 192, 1)
        return grey.reshape(len(tokens), 16, 16, 3)


@pytest.fixture(scope="module")
def policy():
    """Compiled programs, parameters and tokenizer of the fake model."""
    tokenizer, cfg = TextTokenizer(build_tokenizer()), FakeSizes()
    graphdef, params = flatten(FakeModel(cfg, nnx.Rngs(0)))
    ids = SpecialTokenIds.of(tokenizer, cfg.text_vocab_size)
    return PolicyFns(graphdef, cfg, ids), params, tokenizer


def prompt_keys(prompts, task):
    """Keys ``[B, G]``."""
    return sample_keys(stream(0, task), prompts * GROUP).reshape(prompts, GROUP)


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_log_probs_of_images_are_the_samplers(policy, shared_prefix):
    """With guidance, in chunks."""
    fns, params, tokenizer = policy
    prompts = TextToImage(tokenizer).make_prompts([example("train", i) for i in range(2)]).prompts
    sampling = fns.sampling_params("image", guidance=2.0)
    rollout = fns.sample_images(params, prompts, prompt_keys(2, "image"), sampling)
    assert rollout.pixels.shape == (2, GROUP, 16, 16, 3) and rollout.tokens.shape == (2, GROUP, 4)
    assert len(np.unique(rollout.tokens)) > 3
    np.testing.assert_array_equal(rollout.pixels[..., 0, 0, 0], rollout.tokens[..., 0] * 32)

    options = LogProbOptions(guided=True, shared_prefix=shared_prefix, chunk_length=2)
    log_probs = fns.log_probs(params, prompts, rollout, sampling, options)
    np.testing.assert_allclose(log_probs, rollout.log_probs, atol=1e-5)


def test_log_probs_of_answers_are_the_samplers(policy):
    fns, params, tokenizer = policy
    task = VisualQA(tokenizer, fns.cfg.image_tokens, fns.cfg.image_size)
    batch = task.make_prompts([example("train", i) for i in range(2)])
    sampling = fns.sampling_params("text")
    rollout = fns.sample_text(params, batch.prompts, prompt_keys(2, "text"), sampling, 6)
    log_probs = fns.log_probs(params, batch.prompts, rollout, sampling, LogProbOptions())
    mask = np.asarray(rollout.mask)
    np.testing.assert_allclose(log_probs[mask], rollout.log_probs[mask], atol=1e-5)
    texts = [completion.text for completion in task.to_completions(batch, rollout)]
    assert len(texts) == 2 * GROUP and len(set(texts)) > 1


def test_rewards_can_read_states_and_answers(policy):
    fns, params, tokenizer = policy
    handle = RewardPolicyHandle(fns, tokenizer, params, answer_length=6)
    images = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (0, 255)])
    answers = handle.answers(images, ["how many objects are there?"] * 2)
    # The question is the same, so the images make the difference.
    assert answers[0] != answers[1]

    states, image_mask, *_ = handle.token_states(images, ["a red circle"] * 2)
    assert states.shape[-1] == 16 and image_mask.sum() == 2 * fns.cfg.image_tokens


def test_log_probs_have_a_gradient(policy):
    fns, params, tokenizer = policy
    prompts = TextToImage(tokenizer).make_prompts([example("train", 0)]).prompts
    sampling = fns.sampling_params("image", guidance=2.0)
    rollout = fns.sample_images(params, prompts, prompt_keys(1, "image"), sampling)

    def total(params):
        options = LogProbOptions(guided=True)
        return fns.log_probs(params, prompts, rollout, sampling, options).sum()

    grads = jax.grad(total)(params)
    assert float(jnp.abs(grads["backbone/mix/kernel"]).max()) > 0
