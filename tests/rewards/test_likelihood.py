"""The policy's own likelihood as a reward: hand numbers, uniform policies, and pairs that belong together."""

from __future__ import annotations

import types

import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.likelihood import described
from corl_jax.rewards.record_checks import record_checks
from corl_jax.rewards.requirements import model_use_counts, needs_reference
from corl_jax.sampling.policy_handle import RewardPolicyHandle

NAMES = ("prompt_likelihood", "picture_likelihood")


class FixedLogProbs:
    """A policy handle whose tokens have log-probs -.5, -1 and -.3, or -.9 where nothing is read."""

    def prompt_log_probs(self, images, texts, judge):
        return np.full(len(texts), -0.9 if (images == 127).all() else np.mean([-0.5, -1.0, -0.3]))

    def picture_log_probs(self, texts, images, judge):
        return np.array([np.mean([-0.5, -1.0, -0.3]) if text else -0.9 for text in texts])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("baseline", "normalization", "value"),
    [
        ("none", "unit", 0.5488),
        ("none", "none", -0.6),
        # exp(-.6) / (exp(-.6) + exp(-.9)) = .5488 / (.5488 + .4066)
        ("blank", "unit", 0.5744),
        ("blank", "none", 0.3),
    ],
)
def test_rewards_by_hand(name, baseline, normalization, value):
    record = example("train", 0)
    options = RewardOptions(likelihood_baseline=baseline, normalization=normalization)
    completion = Completion(record, text="<think>a red circle</think>", pixels=record.image)
    context = RewardContext(FixedLogProbs(), options=options)
    (reward,) = compute_rewards([completion], {name: 1.0}, context).total
    assert reward == pytest.approx(value, abs=1e-4)
    assert sum(model_use_counts([name], options).values()) == (2 if baseline == "blank" else 1)
    assert needs_reference([name], options) and not needs_reference(["matching"], options)
    assert not needs_reference([name], RewardOptions(likelihood_judge="policy"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<think> a red\ncircle </think> <answer> B </answer>", "a red circle"),
        ("<think>a red circle <answer>B</answer>", "a red circle B"),
        ("a red circle", "a red circle"),
        ("<think> </think><answer>B</answer>", ""),
    ],
)
def test_what_a_text_describes(text, words):
    assert described(text) == words


def test_a_uniform_policy_gives_one_of_the_vocabulary(tiny_policy):
    heads = ("gen_head", "lm_head")
    params = {
        path: jnp.zeros_like(leaf) if any(head in path for head in heads) else leaf
        for path, leaf in tiny_policy.params.items()
    }
    handle = RewardPolicyHandle(tiny_policy.fns, tiny_policy.tokenizer, params, reference=params)
    images = np.stack([example("train", i).image for i in range(2)])
    texts = ["a red circle", "two blue squares and a green triangle"]
    vocabulary, codebook = tiny_policy.cfg.text_vocab_size, tiny_policy.cfg.image_vocab_size
    read = handle.prompt_log_probs(images, texts, "reference")
    np.testing.assert_allclose(read, -np.log(vocabulary), rtol=1e-5)
    drawn = handle.picture_log_probs([texts[0], ""], images, "policy")
    np.testing.assert_allclose(drawn, -np.log(codebook), rtol=1e-5)


@pytest.fixture(scope="module")
def shipped_base():
    return Policy.load("tiny", dtype="float32")


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_base_prefers_pairs_that_belong_together(shipped_base, name):
    records = [example("test", i) for i in range(16)]
    handle = RewardPolicyHandle(
        shipped_base.fns, shipped_base.tokenizer, shipped_base.params, reference=shipped_base.params
    )

    def values(shift):
        rows = [
            Completion(record, text=records[i - shift].prompt, pixels=records[i - shift].image)
            for i, record in enumerate(records)
        ]
        return compute_rewards(rows, {name: 1.0}, RewardContext(handle)).total

    pairs, shuffled = values(0), values(5)
    assert np.all((pairs > 0) & (pairs < 1))
    assert (pairs > shuffled).mean() >= 0.8 and pairs.mean() > 1.5 * shuffled.mean()


def test_the_judge_is_the_policy_that_was_named(tiny_policy, rng):
    other = {path: leaf * 1.5 for path, leaf in tiny_policy.params.items()}
    handle = RewardPolicyHandle(
        tiny_policy.fns, tiny_policy.tokenizer, tiny_policy.params, 64, reference=other
    )
    swapped = RewardPolicyHandle(
        tiny_policy.fns, tiny_policy.tokenizer, other, 64, reference=tiny_policy.params
    )
    images, texts = rng.integers(0, 256, (2, 48, 48, 3), np.uint8), ["a red circle", "a circle"]
    by_policy = handle.prompt_log_probs(images, texts, "policy")
    np.testing.assert_array_equal(by_policy, swapped.prompt_log_probs(images, texts, "reference"))
    assert np.abs(by_policy - handle.prompt_log_probs(images, texts, "reference")).min() > 1e-3

    # A row does not depend on the others, whose texts are longer.
    alone = handle.prompt_log_probs(images[1:], texts[1:], "policy")
    np.testing.assert_allclose(alone, by_policy[1:], atol=1e-5)
    no_reference = RewardPolicyHandle(tiny_policy.fns, tiny_policy.tokenizer, other)
    with pytest.raises(ValueError, match="the reference policy was not read"):
        no_reference.prompt_log_probs(images, texts, "reference")


def test_special_tokens_of_a_text_are_no_structure(tiny_policy):
    handle = RewardPolicyHandle(tiny_policy.fns, tiny_policy.tokenizer, tiny_policy.params)
    images = [example("train", 0).image] * 2
    texts = ["a <begin_of_image> circle", "a circle"]
    drawn = handle.picture_log_probs(texts, images, "policy")
    assert drawn[0] == drawn[1]


def test_records_without_what_is_read_are_refused():
    record = types.SimpleNamespace(**vars(example("train", 0)) | {"image": None, "location": ""})
    (check,) = record_checks(["picture_likelihood"], RewardOptions(), lambda record: None)
    with pytest.raises(UserError, match="reward 'picture_likelihood' needs a picture"):
        check(record)
