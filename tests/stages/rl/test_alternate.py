"""Training in turns: a step trains one task alone, and a resumed run takes the same turns."""

from __future__ import annotations

import pytest
from helpers import apply_update, metric_rows, train_and_stop

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import sharding_context
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run import prepare, run
from corl_jax.stages.setup import build_setup
from corl_jax.stages.whole_config import optim_config

TASKS_OF_STEPS = ["image", "image", "text", "text", "image"]
ALTERNATE = {
    "rl.rollout.alternate_every": 2,
    "steps": 5,
    "hooks.save_every": 3,
    "hooks.probe_every": 2,
    "kl.image.start": 0.01,
}


@pytest.fixture(scope="module")
def alternating_run(rl_config, small_world, tmp_path_factory):
    """Work directory and config of a run in turns that was never stopped."""
    workdir = tmp_path_factory.mktemp("alternate") / "run"
    config = rl_config(**ALTERNATE)
    with small_world():
        run(config, workdir)
    return workdir, config


def test_a_step_trains_one_task(alternating_run):
    workdir, _ = alternating_run
    rows = metric_rows(workdir)
    for row, task in zip(rows, TASKS_OF_STEPS, strict=True):
        idle_task = {"image": "text", "text": "image"}[task]
        assert row[f"{task}/reward"] and row["grad_norm"] > 0
        idle_columns = {name for name in row if name.startswith(idle_task)}
        assert idle_columns <= {f"{idle_task}/held_out_reward"}

    # Probes measure both tasks, whichever is trained.
    probed = [row for row in rows if "image/held_out_reward" in row]
    assert [row["step"] for row in probed] == [2, 4]
    assert all("text/held_out_reward" in row for row in probed)


def test_the_coefficient_of_an_idle_task_follows_the_step(alternating_run):
    """``grpo_d`` over 5 steps, w = 1.5: in step 4 of images as if they had never been idle."""
    workdir, _ = alternating_run
    last = metric_rows(workdir)[4]["image/kl_coefficient"]
    low, high, w = 0.01, 0.03, 1.5
    assert last == pytest.approx(low + (high - low) * (4 - w) / (5 - w), rel=1e-5)


def test_stopped_and_resumed_equals_never_stopped(alternating_run, small_world, tmp_path):
    workdir, config = alternating_run
    resumed = tmp_path / "resumed"
    with small_world():
        # Stopped in the middle of a turn, after the checkpoint of step 3.
        train_and_stop(config, resumed, 4)
        run(config, resumed)
    assert metric_rows(resumed) == metric_rows(workdir)
    digests = [
        read_manifest(folder / "checkpoints" / "5").params_digest for folder in (workdir, resumed)
    ]
    assert digests[0] == digests[1] is not None


def test_one_program_per_task(rl_config, small_world):
    with small_world():
        config = rl_config(**ALTERNATE | {"rl.rollout.alternate_every": 1})
        setup, optimizer = build_setup(config), make_optimizer(optim_config(config))
        stage = RlStage(config, setup, optimizer)
        with sharding_context(setup.sharder):
            state, data = stage.init_state(), stage.data_iterator()
            update = make_update(stage.loss, stage.update_algo_state, optimizer, 1, state)
            for step in range(4):
                for batch, _ in stage.batches(state, next(data), step):
                    state, _ = apply_update(update, state, batch)
                    assert list(batch) == [("image", "text")[step % 2]]
    assert update._cache_size() == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rl.rollout.alternate_every": -1},
            "config.rl.rollout.alternate_every must be a whole number of at least 0; got -1",
        ),
        (
            {"rl.rollout.alternate_every": 1, "rl.rollout.text_prompts": 0},
            "config.rl.rollout.alternate_every=1 trains the tasks in turns, so both must have "
            "prompts .*; got 8 image_prompts, 0 text_prompts",
        ),
        (
            {"rl.rollout.alternate_every": 1, "rl.advantage.pairing": "unified"},
            "pairing must be 'separate'; got .* pairing='unified'",
        ),
    ],
)
def test_turns_that_cannot_be_taken(rl_config, small_world, tmp_path, change, message):
    with small_world(), pytest.raises(UserError, match=message):
        prepare(rl_config(**change), tmp_path / "new")
    assert not (tmp_path / "new").exists()
