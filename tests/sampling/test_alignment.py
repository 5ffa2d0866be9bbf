"""The alignment of ULM-R1's code: a token's log-prob comes from the state that has read it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts, Rollout
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.sampling.prompt_layout import prompt_mask, prompt_positions

CAPTIONS, GROUP, LENGTH = ("a red circle", "two blue squares and a green triangle"), 3, 4


@pytest.fixture(scope="module")
def policy(dot_policy_folder):
    return Policy.load(dot_policy_folder, dtype="float32")


@pytest.fixture(scope="module")
def prompts(policy):
    """Prompts to draw the captions; the first one is padded."""
    ids = [policy.tokenizer.image_generation_prompt(caption) for caption in CAPTIONS]
    return Prompts(*left_pad(ids, policy.tokenizer.pad_id))


@pytest.fixture(scope="module")
def image_tokens(policy):
    vocab_size = policy.cfg.image_vocab_size
    shape = (len(CAPTIONS), GROUP, LENGTH)
    return np.random.default_rng(0).integers(0, vocab_size, shape, np.int32)


def log_probs_of(policy, prompts, image_tokens, guidance=1.0, **options):
    """Log-probs of ``image_tokens`` at temperature 0.7, with some ``LogProbOptions``."""
    sampling = policy.fns.sampling_params("image", guidance=guidance, temperature=0.7)
    mask = np.ones(image_tokens.shape, bool)
    rollout = Rollout(jnp.asarray(image_tokens), mask, None, None, "image")
    log_probs = policy.fns.log_probs(
        policy.params,
        prompts,
        rollout,
        sampling,
        LogProbOptions(guided=guidance != 1, **options),
    )
    return np.asarray(log_probs)


def test_against_one_pass_over_prompt_and_image(policy, prompts, image_tokens):
    """The state at position ``P + t`` has read token ``t``, whose log-prob comes from it."""
    model = bind(policy.fns.graphdef, policy.params)
    prompt_length = prompts.tokens.shape[1]
    row, sample = 0, 1
    completion = image_tokens[row, sample]

    @jax.jit
    def log_softmax_of_pass(tokens, mask, completion):
        x = jnp.concatenate([model.embed_text(tokens), model.embed_image_tokens(completion)], 1)
        mask = jnp.concatenate([mask, jnp.ones((1, LENGTH), bool)], 1)
        states = model.language_model(x, prompt_positions(mask), prompt_mask(mask))[0]
        return jax.nn.log_softmax(model.image_logits(states[0]) / 0.7, -1)

    distributions = np.asarray(
        log_softmax_of_pass(
            prompts.tokens[row : row + 1], prompts.mask[row : row + 1], completion[None]
        )
    )
    for aligned, first in ((True, prompt_length - 1), (False, prompt_length)):
        expected = [distributions[first + t, token] for t, token in enumerate(completion)]
        log_probs = log_probs_of(policy, prompts, image_tokens, aligned=aligned)[row, sample]
        np.testing.assert_allclose(log_probs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("guidance", "options"), [(2.5, {"shared_prefix": True}), (1.0, {"chunk_length": 3})]
)
def test_it_is_the_distribution_of_the_next_token(policy, prompts, image_tokens, guidance, options):
    """An unaligned log-prob of token ``t`` is the aligned one of the same token at ``t + 1``."""
    unaligned = log_probs_of(policy, prompts, image_tokens, guidance, aligned=False, **options)
    longer = np.concatenate([image_tokens, image_tokens[..., :1]], -1)
    for t in range(LENGTH):
        repeated = longer.copy()
        repeated[..., t + 1] = image_tokens[..., t]
        aligned = log_probs_of(policy, prompts, repeated, guidance, **options)
        np.testing.assert_allclose(unaligned[..., t], aligned[..., t + 1], atol=1e-5)

    aligned = log_probs_of(policy, prompts, longer, guidance, **options)[..., :LENGTH]
    assert np.abs(unaligned - aligned).max() > 0.1
