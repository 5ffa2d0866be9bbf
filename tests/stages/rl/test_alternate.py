"""Training by turns: a step is of one task alone, which one the step decides, and a stopped run goes on exactly."""

from __future__ import annotations

import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.manifest import read_manifest
from corl_jax.engine.optim import make_optimizer
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run import optim_config, prepare, run, steps
from corl_jax.stages.setup import build_setup

TURNS = ["image", "image", "text", "text", "image"]
ALTERNATE = {
    "rl.alternate": 2,
    "steps": 5,
    "hooks.save_every": 3,
    "hooks.probe_every": 2,
    "kl.image.start": 0.01,
}


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


@pytest.fixture(scope="module")
def whole(rl_config, small_world, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("turns") / "whole", rl_config(**ALTERNATE)
    with small_world():
        run(config, folder)
    return folder, config


def test_a_step_is_of_one_task(whole):
    found = rows(whole[0])
    for row, turn in zip(found, TURNS, strict=True):
        idle = {"image": "text", "text": "image"}[turn]
        assert row[f"{turn}/reward"] and row["grad_norm"] > 0
        assert not [name for name in row if name.startswith(idle) and name != f"{idle}/held_out_reward"]
    probed = [row for row in found if "image/held_out_reward" in row]
    assert [row["step"] for row in probed] == [2, 4] and all(
        "text/held_out_reward" in row for row in probed
    )


def test_the_coefficient_of_the_idle_task_follows_the_step(whole):
    """grpo_d over 5 steps, w = 1.5: at step 4 of drawing as if it had never been idle."""
    last = rows(whole[0])[4]["image/kl_coefficient"]
    low, high, w = 0.01, 0.03, 1.5
    assert last == pytest.approx(low + (high - low) * (4 - w) / (5 - w), rel=1e-5)


def test_stopped_and_resumed_equals_never_stopped(whole, small_world, tmp_path):
    folder, config = whole
    with small_world():
        going = steps(prepare(config, tmp_path / "parts"))
        assert [next(going).step for _ in range(4)] == [1, 2, 3, 4]
        going.close()  # in the middle of a turn, behind the checkpoint of step 3
        run(config, tmp_path / "parts")
    assert rows(tmp_path / "parts") == rows(folder)
    ends = [
        read_manifest(one / "checkpoints" / "5").params_digest
        for one in (folder, tmp_path / "parts")
    ]
    assert ends[0] == ends[1] is not None


def test_one_program_per_task(rl_config, small_world, tmp_path):
    from corl_jax.core.sharding import sharding_context
    from corl_jax.engine.update import make_update

    with small_world():
        config = rl_config(**ALTERNATE | {"rl.alternate": 1})
        parts, optimizer = build_setup(config), make_optimizer(optim_config(config))
        stage = RlStage(config, parts, optimizer)
        with sharding_context(parts.sharder):
            update = make_update(stage.loss, stage.after, optimizer)
            state, data = stage.init(), stage.data()
            for step in range(4):
                for batch, _ in stage.batches(state, next(data), step):
                    state, _ = update(state, batch)
                    assert list(batch) == [("image", "text")[step % 2]]
    assert update.trace_count == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rl.alternate": -1}, "rl.alternate=-1 is no number of steps"),
        ({"rl.alternate": 1, "rl.questions": 0}, "rl.alternate=1 takes turns between both tasks"),
        ({"rl.alternate": 1, "rl.pairing": "unified"}, "rl.pairing='unified'"),
    ],
)
def test_turns_that_cannot_be(rl_config, small_world, tmp_path, change, says):
    with small_world(), pytest.raises(UserError, match=says):
        prepare(rl_config(**change), tmp_path / "new")
    assert not (tmp_path / "new").exists()
