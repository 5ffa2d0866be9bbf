"""Both sides of ``bench step`` do the same work: the same loss and gradient from the same tokens and weights."""

import dataclasses

import jax
import numpy as np
import pytest

from corl_jax.bench import train_step
from corl_jax.bench.timing import PHASES, Work, timed_step
from corl_jax.bench.train_step import OurStep
from corl_jax.bench.workloads import DOT, sample_prompts, sample_questions
from corl_jax.core.errors import UserError
from corl_jax.sampling.policy import Policy

WORK = Work(prompts=2, group=2, answer=5, microbatches=2, torch_parts=4, remat="dots", unroll=1)


@pytest.fixture(scope="module")
def sides(dot_policy_folder):
    torch = pytest.importorskip("torch", reason="the other side needs torch")
    torch.set_num_threads(1)
    from corl_jax.bench.torch_baseline import TorchStep

    policy = Policy.load(dot_policy_folder)
    prompts = sample_prompts(policy.tokenizer, 2), sample_questions(policy.tokenizer, DOT, 2)
    assert not prompts[1].mask.all() and prompts[1].images.shape == (2, 16, 16, 3)
    ids = dataclasses.replace(
        policy.sampler.ids, banned=(*policy.sampler.ids.banned, policy.tokenizer.eos_id)
    )
    ours = OurStep(policy, *prompts, ids, WORK, jax.devices()[:1])
    return ours, TorchStep(dot_policy_folder, *prompts, ids, WORK), torch


@pytest.fixture(scope="module")
def rollouts(sides):
    return sides[0].sample_images(1), sides[0].sample_text(1)


def as_torch(rollout, torch):
    return torch.from_numpy(np.array(rollout.tokens, np.int64).reshape(WORK.samples, -1))


def test_answers_have_full_length_and_turns_differ(sides, rollouts):
    ours, theirs, _ = sides
    image, text = rollouts
    assert image.tokens.shape == (2, 2, 4) and image.pixels.shape == (2, 2, 16, 16, 3)
    assert text.tokens.shape == (2, 2, 5) and np.asarray(text.mask).all()
    assert not np.isin(np.asarray(text.tokens), theirs.ids.banned).any()
    assert (np.asarray(ours.sample_text(2).tokens) != np.asarray(text.tokens)).any()
    answers = theirs.sample_text(1)
    assert answers.shape == (4, 5) and not np.isin(answers, theirs.ids.banned).any()
    assert theirs.sample_images(1).shape == (4, 4)


@pytest.mark.parametrize("task", ["image", "text"])
def test_log_probs_are_equal(sides, rollouts, task):
    _, theirs, torch = sides
    rollout = rollouts[task == "text"]
    with torch.no_grad():
        scored = getattr(theirs, f"{task}_log_probs")(as_torch(rollout, torch), slice(None))
    ours = np.asarray(rollout.log_probs).reshape(WORK.samples, -1)
    assert ours.std() > 0.01
    np.testing.assert_allclose(scored.numpy(), ours, atol=2e-5)


def test_loss_and_gradient_are_equal_and_weights_move_alike(sides, rollouts):
    ours, theirs, torch = sides
    path, row = "language_model/lm_head/kernel", theirs.model.lm_head.weight
    before = np.array(ours.state.trainable[path])
    metrics = ours.update(*rollouts)
    loss, norm = theirs.update(*(as_torch(rollout, torch) for rollout in rollouts))
    assert metrics["grad_norm"] > 1e-3
    np.testing.assert_allclose(
        loss, metrics["loss"], atol=1e-6
    )  # advantages add up to 0, and so do both losses
    np.testing.assert_allclose(norm, metrics["grad_norm"], rtol=1e-4)
    moved, theirs_now = np.asarray(ours.state.trainable[path]) - before, row.detach().numpy().T
    assert np.abs(moved).max() > 1e-6
    np.testing.assert_allclose(theirs_now - before, moved, atol=1e-7)


def test_phases_add_up(sides):
    seconds = timed_step(sides[1], 3)
    assert tuple(seconds) == PHASES and min(seconds.values()) > 0
    assert sum(seconds[phase] for phase in PHASES[:3]) == pytest.approx(seconds["total"])


def test_both_sides_are_measured_in_turns(sides, dot_policy_folder, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(train_step, "random_folder", lambda cfg, where: dot_policy_folder)
    found = train_step.measure(DOT, WORK, 2, 1, log=lines.append, profile=tmp_path)
    assert set(found.seconds) == {"ours", "theirs"} and found.first_step > 0
    assert all(
        tuple(seconds) == PHASES and min(seconds.values()) > 0 for seconds in found.seconds.values()
    )
    assert [line.split(":")[0] for line in lines[-4:]] == [
        f"turn {i} of 2, {side}" for i in (1, 2) for side in found.seconds
    ]
    assert set(found.threads) == set(PHASES) and list(tmp_path.rglob("*.xplane.pb"))


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match="9 devices are wanted, and JAX sees 8"):
        train_step.measure(DOT, WORK, 1, 9)
