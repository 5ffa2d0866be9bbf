"""Plans before pictures (T2I-R1): prompts, weights, advantages and log-probs of both parts."""

from __future__ import annotations

import types

import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import PolicyBatch, Rewards, Rollout
from corl_jax.data.plans import Plans, plan_openings
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.objectives.normalizations import normalize_by_group_std
from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.sampling.plans import behind_plans
from corl_jax.sampling.prompt_layout import unconditional_tokens
from corl_jax.stages.rl.config_blocks import PlanConfig
from corl_jax.stages.rl.kl_penalty import subtract_kl_penalties
from corl_jax.stages.rl.part_weights import part_weights

PLAN = {
    "rl.plan.length": 6,
    "rl.plan.prompt_length": 32,
    "rl.rollout.image_prompt_length": 24,
    "rl.rollout.image_prompts": 4,
    "rl.rollout.text_prompts": 0,
    "rl.rollout.group_size": 4,
    "hooks.completions_every": 1,
}


@pytest.fixture(scope="module")
def planned(take_step):
    """The first step of a run with plans."""
    return take_step(**PLAN)


def weights_of(aggregation, **plan):
    """Two samples of one prompt, with plans of 2 and 1 tokens and images of 4."""
    masks = {
        "plan": jnp.array([[[True, True], [True, False]]]),
        "image": jnp.ones((2, 1, 4), bool),
    }
    cfg = types.SimpleNamespace(
        loss=types.SimpleNamespace(aggregation=aggregation), plan=PlanConfig(length=2, **plan)
    )
    return part_weights(cfg, masks)


def loss_of(weights):
    """The surrogate of both parts, for the rewards 1 and 0, in the first update."""
    advantages = normalize_by_group_std(jnp.array([[1.0, 0.0]]))
    total = 0.0
    for part, shape in (("plan", (1, 2)), ("image", (2, 1))):
        per_token, *_ = clipped_surrogate(
            jnp.zeros(weights[part].shape),
            None,
            advantages.reshape(shape)[..., None],
            clip="ppo",
            epsilon_low=0.2,
            epsilon_high=0.2,
            ceiling=3.0,
        )
        total += float(jnp.sum(per_token * weights[part]))
    return total


def test_joint_weights_are_those_of_t2i_r1():
    """11 tokens with one weight each, of which the better sample has 6."""
    weights = weights_of("token_mean")
    np.testing.assert_allclose(weights["plan"], np.array([[[1, 1], [1, 0]]]) / 11, rtol=1e-6)
    np.testing.assert_allclose(weights["image"], np.full((2, 1, 4), 1 / 11), rtol=1e-6)
    assert loss_of(weights) == pytest.approx(-0.064273, abs=1e-6)


def test_a_share_divides_the_weight_of_the_task():
    """By sequences, each part by itself: a plan of two tokens has a quarter of it per token."""
    weights = weights_of("sequence_mean", weighting="share", share=0.5)
    np.testing.assert_allclose(2 * weights["plan"], [[[1 / 4, 1 / 4], [1 / 2, 0]]], rtol=1e-6)
    assert loss_of(weights) == pytest.approx(0, abs=1e-7)

    weights = weights_of("token_mean", weighting="share", share=0.2)
    assert float(weights["plan"].sum()) == pytest.approx(0.2)
    assert float(weights["image"].sum()) == pytest.approx(0.8)


def test_pictures_are_drawn_behind_prompt_and_plan():
    tokenizer = TextTokenizer(build_tokenizer())
    captions = ["a red circle", "two blue squares and a green triangle."]
    words = [[["red", "circle"], []], [["blue", "square", "square"], ["triangle"]]]
    tokens = np.full((2, 2, 4), tokenizer.eos_id, np.int32)
    mask = np.zeros((2, 2, 4), bool)
    for prompt, sample in np.ndindex(2, 2):
        ids = [tokenizer.encode(word)[0] for word in words[prompt][sample]]
        tokens[prompt, sample, : len(ids)] = ids
        mask[prompt, sample, : len(ids) + 1] = True

    openings = plan_openings(tokenizer, captions)
    plans = Rollout(tokens, mask, None, None, "text")
    prompts = behind_plans(openings, plans, tokenizer)
    assert prompts.tokens.shape == (4, openings.tokens.shape[1] + 4)
    for row, (prompt, sample) in enumerate(np.ndindex(2, 2)):
        text = f"{captions[prompt].rstrip('.')}. {' '.join(words[prompt][sample])}"
        expected = tokenizer.image_generation_prompt(text)
        length = int(prompts.mask[row].sum())
        assert prompts.tokens[row, -length:].tolist() == expected
        assert prompts.mask[row, -length:].all()
        assert set(prompts.tokens[row, :-length].tolist()) <= {tokenizer.pad_id}

    # Guidance loses the words of both.
    uncond = unconditional_tokens(prompts.tokens, prompts.mask, tokenizer.pad_id)
    assert set(uncond[0].tolist()) == {tokenizer.bos_id, tokenizer.pad_id, tokenizer.boi_id}


def test_requests_name_the_prompt():
    tokenizer = TextTokenizer(build_tokenizer())
    ids = Plans(8).request_ids(tokenizer, "a red circle")
    assert tokenizer.decode(ids) == tokenizer.decode(
        tokenizer.content_prompt("list all objects: a red circle.", 0, 0)
    )
    assert tokenizer.boi_id not in ids and tokenizer.image_id not in ids
    own = Plans(8, "describe: {prompt}").request_ids(tokenizer, "a red circle")
    assert own == tokenizer.content_prompt("describe: a red circle", 0, 0)


def test_a_step_has_plans_and_a_picture_behind_each(planned):
    plan, image = planned.batches[0]["plan"], planned.batches[0]["image"]
    assert plan.tokens.shape == (4, 4, 6) and image.tokens.shape == (16, 1, 4)
    assert plan.prompts.images is None
    np.testing.assert_allclose(np.ravel(plan.advantages), np.ravel(image.advantages))
    assert np.any(plan.advantages)
    assert float(plan.weights.sum() + image.weights.sum()) == pytest.approx(1)

    # Every picture has the words of its own plan.
    tokenizer = planned.stage.setup.tokenizer
    for row in range(16):
        written = np.asarray(plan.tokens).reshape(16, 6)[row]
        words = written[np.asarray(plan.mask).reshape(16, 6)[row] & (written != tokenizer.eos_id)]
        prompt = np.asarray(image.prompts.tokens[row])[np.asarray(image.prompts.mask[row])]
        ending = len(tokenizer.plan_ending)
        np.testing.assert_array_equal(prompt[-ending - len(words) : -ending], words)

    metrics = planned.host_metrics
    assert 1 <= metrics["plan/completion_length"] <= 6 and 0 <= metrics["plan/truncated"] <= 1
    assert "plan/reward" not in metrics
    samples = planned.stage.completion_log.run(1, None).samples
    assert [sample.task for sample in samples] == ["image"] * 8
    texts = [tokenizer.decode(plan.tokens[index]) for index in np.ndindex(2, 4)]
    assert [sample.plan for sample in samples] == texts and len(set(texts)) > 1


def test_the_loss_agrees_with_the_sampler_in_both_parts(planned):
    state, (metrics,) = planned.run()
    for part in ("plan", "image"):
        assert metrics[f"{part}/sampler_logp_diff"] < 1e-4
        assert metrics[f"{part}/ratio"] == 1 and metrics[f"{part}/entropy"] > 1
        # The plan has the KL term of its task.
        assert metrics[f"{part}/kl_coefficient"] == pytest.approx(0.015)
    assert set(state.algo) == {"image"} and metrics["grad_norm"] > 1e-3

    # Micro-batches add up, though the parts have different numbers of rows.
    _, (split,) = planned.run(microbatches=2)
    assert split["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)


def test_eight_devices_plan_and_draw_as_one(planned, take_step):
    """Four prompts on eight devices: each is read by two, with half of its samples."""
    spread = take_step(devices=8, **PLAN).batches[0]
    single = planned.batches[0]
    assert spread["plan"].tokens.shape == (8, 2, 6)
    for part in ("plan", "image"):
        expected = single[part].tokens
        np.testing.assert_array_equal(
            np.reshape(spread[part].tokens, expected.shape), expected, err_msg=part
        )
        assert len(spread[part].tokens.sharding.device_set) == 8
        np.testing.assert_allclose(
            np.ravel(spread[part].advantages), np.ravel(single[part].advantages), atol=0.05
        )
    np.testing.assert_array_equal(spread["image"].prompts.tokens, single["image"].prompts.tokens)


def test_a_sample_pays_for_the_divergence_of_both_parts():
    def rows(shape, log_ratio):
        zeros = np.zeros(shape, np.float32)
        rollout = Rollout(zeros, np.ones(shape, bool), zeros, None, "text")
        return PolicyBatch.build(
            None, rollout, weights=zeros, old_log_probs=zeros + log_ratio, ref_log_probs=zeros
        )

    batch = {"plan": rows((1, 2, 3), 0.1), "image": rows((2, 1, 4), 0.2)}
    kl_term = types.SimpleNamespace(is_in_reward=True, estimator="k1")
    cfg = types.SimpleNamespace(kl={"image": kl_term})
    rewards = {"image": Rewards(("a",), np.ones((2, 1)), np.ones(2))}
    algo = {"image": types.SimpleNamespace(coef=jnp.float32(0.5))}
    penalized, metrics = subtract_kl_penalties(cfg, rewards, batch, algo)
    # Half of 3 * 0.1 + 4 * 0.2.
    np.testing.assert_allclose(penalized["image"].total, [0.45, 0.45], rtol=1e-6)
    assert metrics == {"image/kl_penalty": pytest.approx(0.55)}


def test_plans_need_pictures(rl_config):
    from corl_jax.stages.rl.read_config import read_rl_config

    config = rl_config(**{"rl.plan.length": 4, "rl.rollout.image_prompts": 0})
    with pytest.raises(
        UserError, match="config.rl.plan.length must be 0 where no images are drawn"
    ):
        read_rl_config(config, 1)
