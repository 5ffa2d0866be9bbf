"""The reference's alignment: an image token is scored by the state that has read it, as a hand-made pass shows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts, Rollout
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.sampling.prompt_layout import prompt_mask, prompt_positions

CAPTIONS, GROUP, LENGTH = ("a red circle", "two blue squares and a green triangle"), 3, 4


@pytest.fixture(scope="module")
def policy(dot_policy_folder):
    return Policy.load(dot_policy_folder, dtype="float32")


@pytest.fixture(scope="module")
def drawing(policy):
    return Prompts(
        *left_pad(
            [policy.tokenizer.image_generation_prompt(caption) for caption in CAPTIONS],
            policy.tokenizer.pad_id,
        )
    )


@pytest.fixture(scope="module")
def codes(policy):
    size = policy.cfg.image_tokenizer.codebook_size
    return np.random.default_rng(0).integers(0, size, (len(CAPTIONS), GROUP, LENGTH), np.int32)


def scored(policy, drawing, codes, guidance=1.0, **how):
    sampling = policy.fns.sampling_params("image", guidance=guidance, temperature=0.7)
    rollout = Rollout(jnp.asarray(codes), np.ones(codes.shape, bool), None, None, "image")
    return np.asarray(
        policy.fns.log_probs(
            policy.params, drawing, rollout, sampling, guided=guidance != 1, **how
        )
    )


def test_by_hand(policy, drawing, codes):
    """The states of one plain pass over prompt and picture: position ``P + t`` has read token ``t`` and scores it."""
    model = bind(policy.fns.graphdef, policy.params)
    prompt, (b, g) = drawing.tokens.shape[1], (0, 1)  # the shorter prompt, behind padding

    @jax.jit
    def read(tokens, mask, picture):
        x = jnp.concatenate([model.embed_text(tokens), model.embed_image_tokens(picture)], 1)
        seen = jnp.concatenate([mask, jnp.ones((1, LENGTH), bool)], 1)
        states = model.language_model(x, prompt_positions(seen), prompt_mask(seen))[0]
        return jax.nn.log_softmax(model.image_logits(states[0]) / 0.7, -1)

    every = np.asarray(read(drawing.tokens[b : b + 1], drawing.mask[b : b + 1], codes[b, g][None]))
    for aligned, first in ((True, prompt - 1), (False, prompt)):
        want = [every[first + t, token] for t, token in enumerate(codes[b, g])]
        found = scored(policy, drawing, codes, aligned=aligned)[b, g]
        np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(("guidance", "how"), [(2.5, {"shared_prefix": True}), (1.0, {"chunk": 3})])
def test_it_is_the_distribution_of_the_token_after(policy, drawing, codes, guidance, how):
    """Token ``t`` at its place by the off-by-one scorer, and once more behind itself by the aligned one."""
    found = scored(policy, drawing, codes, guidance, aligned=False, **how)
    longer = np.concatenate([codes, codes[..., :1]], -1)
    for t in range(LENGTH):
        again = longer.copy()
        again[..., t + 1] = codes[..., t]
        np.testing.assert_allclose(
            found[..., t], scored(policy, drawing, again, guidance, **how)[..., t + 1], atol=1e-5
        )
    assert (
        np.abs(found - scored(policy, drawing, longer, guidance, **how)[..., :LENGTH]).max() > 0.1
    )
