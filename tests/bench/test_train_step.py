"""Both contenders of ``bench step`` do the same work: equal loss and gradient from equal tokens."""

import dataclasses

import jax
import numpy as np
import pytest

from corl_jax.bench import step_speed
from corl_jax.bench.step_speed import StepOptions
from corl_jax.bench.timing import PHASES, time_step
from corl_jax.bench.train_step import JaxStep
from corl_jax.bench.workloads import DOT, Workload, make_image_prompts, make_question_prompts
from corl_jax.core.errors import UserError
from corl_jax.sampling.policy import Policy

WORKLOAD = Workload(
    prompts=2,
    group_size=2,
    answer_length=5,
    microbatches=2,
    torch_parts=4,
    remat="dots",
    unroll=1,
)


@pytest.fixture(scope="module")
def contenders(dot_policy_folder):
    """corl_jax's step and torch's on the same weights and prompts, and the module torch."""
    torch = pytest.importorskip("torch", reason="transformers needs torch")
    torch.set_num_threads(1)
    from corl_jax.bench.torch_baseline import TorchStep

    policy = Policy.load(dot_policy_folder)
    image_prompts = make_image_prompts(policy.tokenizer, 2)
    text_prompts = make_question_prompts(policy.tokenizer, DOT, 2)
    assert not text_prompts.mask.all() and text_prompts.images.shape == (2, 16, 16, 3)
    ids = dataclasses.replace(
        policy.fns.ids, banned=(*policy.fns.ids.banned, policy.tokenizer.eos_id)
    )
    args = (image_prompts, text_prompts, ids, WORKLOAD)
    return JaxStep(policy, *args, jax.devices()[:1]), TorchStep(dot_policy_folder, *args), torch


@pytest.fixture(scope="module")
def rollouts(contenders):
    """Images and answers that corl_jax sampled."""
    jax_step, *_ = contenders
    return jax_step.sample_images(1), jax_step.sample_text(1)


def as_torch(rollout, torch):
    """Tokens ``[N, T]`` of a rollout."""
    return torch.from_numpy(np.array(rollout.tokens, np.int64).reshape(WORKLOAD.samples, -1))


def test_answers_have_full_length_and_depend_on_the_seed(contenders, rollouts):
    jax_step, torch_step, _ = contenders
    image, text = rollouts
    assert image.tokens.shape == (2, 2, 4) and image.pixels.shape == (2, 2, 16, 16, 3)
    assert text.tokens.shape == (2, 2, 5) and np.asarray(text.mask).all()
    assert not np.isin(np.asarray(text.tokens), torch_step.ids.banned).any()
    assert (np.asarray(jax_step.sample_text(2).tokens) != np.asarray(text.tokens)).any()

    answers = torch_step.sample_text(1)
    assert answers.shape == (4, 5) and not np.isin(answers, torch_step.ids.banned).any()
    assert torch_step.sample_images(1).shape == (4, 4)


@pytest.mark.parametrize("task", ["image", "text"])
def test_log_probs_are_equal(contenders, rollouts, task):
    _, torch_step, torch = contenders
    image, text = rollouts
    with torch.no_grad():
        if task == "image":
            rollout = image
            log_probs = torch_step.image_log_probs(as_torch(image, torch), slice(None))
        else:
            rollout = text
            log_probs = torch_step.text_log_probs(as_torch(text, torch), slice(None))

    expected = np.asarray(rollout.log_probs).reshape(WORKLOAD.samples, -1)
    assert expected.std() > 0.01
    np.testing.assert_allclose(log_probs.numpy(), expected, atol=2e-5)


def test_loss_gradient_and_update_are_equal(contenders, rollouts):
    jax_step, torch_step, torch = contenders
    path, torch_head = "language_model/lm_head/kernel", torch_step.model.lm_head.weight
    before = np.array(jax_step.state.trainable[path])
    metrics = jax_step.update(*rollouts)
    loss, grad_norm = torch_step.update(*(as_torch(rollout, torch) for rollout in rollouts))

    # Advantages add up to 0, and so do both losses.
    assert metrics["grad_norm"] > 1e-3
    np.testing.assert_allclose(loss, metrics["loss"], atol=1e-6)
    np.testing.assert_allclose(grad_norm, metrics["grad_norm"], rtol=1e-4)

    change = np.asarray(jax_step.state.trainable[path]) - before
    torch_change = torch_head.detach().numpy().T - before
    assert np.abs(change).max() > 1e-6
    np.testing.assert_allclose(torch_change, change, atol=1e-7)


def test_flops_of_an_update_do_not_count_what_is_computed_again(contenders, rollouts):
    from corl_jax.planner.flops import call_flops

    jax_step, *_ = contenders
    jax_step.update(*rollouts)
    flops = jax_step.update_flops(call_flops)

    # Three passes over the layers and both heads, for every position that is read: prompts once
    # for a group, two of them with guidance; the last token is not fed back.
    decoder = DOT.decoder
    layer = 4 * decoder.width**2 + 3 * decoder.width * decoder.mlp_dim
    question = jax_step.prompts["text"].tokens.shape[1]
    image_positions = 2 * (2 * 20 + 4 * 3)
    positions = image_positions + 2 * question + 4 * 4
    products = positions * decoder.depth * layer
    products += 4 * 5 * decoder.width * decoder.vocab_size
    assert 6 * products < flops < 6 * 1.5 * products

    # The real update computes the scores of attention again, which "dots" does not save.
    args = (jax_step.state.with_frozen({}), jax_step.state.frozen, jax_step._batch_specs)
    assert call_flops(jax_step._update, *args) > 1.02 * flops


def test_phases_add_up_to_the_total(contenders):
    _, torch_step, _ = contenders
    seconds = time_step(torch_step, 3)
    assert tuple(seconds) == PHASES and min(seconds.values()) > 0
    assert sum(seconds[phase] for phase in PHASES[:3]) == pytest.approx(seconds["total"])


def test_contenders_are_timed_in_rounds(contenders, dot_policy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        step_speed, "make_random_policy", lambda *args: Policy.load(dot_policy_folder)
    )
    monkeypatch.setattr(step_speed, "write_policy", lambda policy, folder: dot_policy_folder)
    options = StepOptions(
        "dot", "transformers", prompts=2, group_size=2, devices=1, repeats=2, profile=tmp_path
    )
    lines = []
    timing = step_speed.time_train_step(DOT, WORKLOAD, options, lines.append)

    assert set(timing.seconds) == {"corl_jax", "transformers"} and timing.first_step > 0
    for seconds in timing.seconds.values():
        assert tuple(seconds) == PHASES and min(seconds.values()) > 0
    assert [line.split(":")[0] for line in lines[-4:]] == [
        "turn 1 of 2, ours",
        "turn 1 of 2, theirs",
        "turn 2 of 2, ours",
        "turn 2 of 2, theirs",
    ]
    assert set(timing.threads) == set(PHASES) and list(tmp_path.rglob("*.xplane.pb"))


def test_torch_failing_leaves_the_times_of_corl_jax(dot_policy_folder, capsys, monkeypatch):
    pytest.importorskip("torch", reason="without torch the command ends before it measures")

    def fail(*args):
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setattr(
        step_speed, "make_random_policy", lambda *args: Policy.load(dot_policy_folder)
    )
    monkeypatch.setattr(step_speed, "write_policy", lambda policy, folder: dot_policy_folder)
    monkeypatch.setattr(step_speed, "TorchStep", fail)
    options = StepOptions(
        "dot", "transformers", 2, 2, devices=1, repeats=1, count_flops=lambda *args: 7.0
    )
    timing = step_speed.time_train_step(DOT, WORKLOAD, options, lambda line: None)

    assert timing.theirs_error == "RuntimeError: CUDA out of memory" and timing.threads is None
    assert set(timing.seconds) == {"corl_jax"} and timing.update_flops == 7
    table = capsys.readouterr().out
    assert "update" in table and "transformers failed: RuntimeError: CUDA out of memory" in table


def test_more_devices_than_there_are():
    options = StepOptions("dot", "transformers", prompts=2, group_size=2, devices=9)
    with pytest.raises(UserError, match="--devices must be at most 8, as many as JAX has; got 9"):
        step_speed.time_train_step(DOT, WORKLOAD, options, print)
