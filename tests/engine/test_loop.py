import json

import jax
import numpy as np
import pytest
import toy_stage
from PIL import Image

from corl_jax.core import trees
from corl_jax.core.errors import UserError
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.checkpoint import latest_step, saved_steps
from corl_jax.engine.handoff import load_params, saved_manifest, saved_shapes
from corl_jax.engine.hooks import Every, Preemption, Profile, Report


def rows(path):
    """The rows of metrics.jsonl without wall-clock columns."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def final(path):
    """Everything that the newest checkpoint holds, as bytes."""
    from corl_jax.engine.checkpoint import Checkpointer
    from corl_jax.engine.manifest import RunIdentity
    from corl_jax.engine.state import abstract

    stage = toy_stage.ToyStage()
    keeper = Checkpointer(path / "checkpoints", RunIdentity("toy", {}, {}))
    data = stage.data()
    step, state = keeper.restore(abstract(stage.init()), data)
    keeper.close()
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return step, leaves, next(data)["y"].tobytes()


def test_one_row_per_step_and_the_loss_falls(tmp_path):
    results = toy_stage.run(tmp_path / "w", 12)
    assert [result.step for result in results] == list(range(1, 13))
    assert results[-1].metrics["loss"] < results[0].metrics["loss"]
    written = [
        json.loads(line) for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    ]
    assert written == [{"step": result.step, **result.metrics} for result in results]
    assert saved_steps(tmp_path / "w" / "checkpoints") == [8, 12]


def test_stop_and_resume_equals_never_stopped(tmp_path):
    whole = toy_stage.ToyStage()
    toy_stage.run(tmp_path / "whole", 11, whole, save_every=3)
    parts = toy_stage.ToyStage()
    toy_stage.run(tmp_path / "parts", 5, parts)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 6, "loss": 0.5}\n{"step": 7, "lo'
        )  # what a killed run leaves behind its checkpoint
    toy_stage.run(tmp_path / "parts", 11, parts)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    assert parts.seen == whole.seen and [step for step, _ in whole.seen] == list(range(11))


def test_a_complete_run_returns_at_once(tmp_path):
    toy_stage.run(tmp_path / "w", 3)
    before = (tmp_path / "w" / "metrics.jsonl").read_text()
    untouched = toy_stage.ToyStage()
    assert toy_stage.run(tmp_path / "w", 3, untouched) == [] and untouched.seen == []
    assert (tmp_path / "w" / "metrics.jsonl").read_text() == before


def test_inner_updates_share_a_row(tmp_path):
    results = toy_stage.run(tmp_path / "w", 2, toy_stage.ToyStage(inner=3))
    assert len(results) == 2 and results[0].metrics["i"] == 2
    rates = [0.05 * (i + 1) / 3 for i in range(3)]
    assert results[0].metrics["learning_rate"] == pytest.approx(np.mean(rates))


def test_hooks_add_to_the_row_and_the_pictures_are_written(tmp_path):
    def look(done, state):
        picture = Image.new("RGB", (4, 4))
        return Report({"evals/kernel": float(state.params["head/kernel"][0, 0])}, {"grid": picture})

    results = toy_stage.run(tmp_path / "w", 5, hooks=[Every(2, look, at_start=True)])
    assert [result.step for result in results if "evals/kernel" in result.metrics] == [0, 2, 4, 5]
    assert [row["step"] for row in rows(tmp_path / "w")] == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "w" / "samples" / "step_000004_grid.png").exists()
    assert results[0].metrics["evals/kernel"] == pytest.approx(0.1)


def test_profile_writes_a_trace(tmp_path):
    toy_stage.run(tmp_path / "w", 3, hooks=[Profile(tmp_path / "trace", 1, 1)])
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_hands_on_its_parameters(tmp_path):
    toy_stage.run(tmp_path / "w", 2)
    manifest = saved_manifest(tmp_path / "w")
    shapes = saved_shapes(tmp_path / "w")
    assert (manifest.stage, manifest.step, manifest.model) == ("toy", 2, {"width": 6})
    assert set(shapes) == {"head/kernel", "head/bias", "scale"}
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
        for name, leaf in shapes.items()
    }
    assert trees.digest(load_params(tmp_path / "w", wanted)) == manifest.params_digest
    assert set(load_params(tmp_path / "w" / "checkpoints" / "2", {"scale": wanted["scale"]})) == {
        "scale"
    }
    with pytest.raises(UserError, match="no parameter 'tail'"):
        load_params(tmp_path / "w", {"tail": wanted["scale"]})
    with pytest.raises(UserError, match="holds no checkpoint"):
        saved_manifest(tmp_path)


def test_steps_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="steps=0"):
        toy_stage.run(tmp_path / "w", 0)


def test_alarm_where_one_reward_decides_alone():
    alarm = Alarm(AlarmConfig(patience=2, dominates=0.9))
    rows = [
        {"image/reward_std_share/cycle": value, "image/reward_std_share/clip": 1 - value}
        for value in (0.95, 0.5, 0.95, 0.96, 0.97)
    ]
    said = [alarm.feed(row) for row in rows]
    assert said == [
        [],
        [],
        [],
        ["image: the reward 'cycle' alone has told samples apart for 2 steps (96%)"],
        [],
    ]
    assert alarm.ringing == 1


def test_alarm_where_the_held_out_reward_falls_as_the_trained_one_rises():
    alarm, said = Alarm(AlarmConfig(probes=2)), []
    for step, held_out in enumerate((0.5, 0.6, 0.5, 0.4, 0.3, 0.5)):
        said += [
            alarm.feed({"image/reward": step / 10 - 0.01}),
            alarm.feed({"image/reward": step / 10} | {"image/held_out_reward": held_out}),
        ]
    assert [i for i, one in enumerate(said) if one] == [7]
    assert said[7] == [
        "image: the reward on held-out prompts fell 2 times in a row while the trained one rose"
    ]
    assert alarm.ringing == 0
    for _ in range(4):  # both fall: nothing to say
        assert alarm.feed({"image/reward": 0.0, "image/held_out_reward": 0.0}) == []


def test_alarm_tells_once_and_survives_a_resume(tmp_path):
    alarm = Alarm(AlarmConfig(("rewards/*",), patience=3))
    said = [alarm.feed({"rewards/a": 0.0, "loss": 1.0}) for _ in range(4)]
    assert said == [[], [], ["rewards/a has been exactly 0 for 3 steps"], []] and alarm.ringing == 1
    assert alarm.feed({"rewards/a": 0.5}) == [] and alarm.ringing == 0
    assert alarm.feed({"rewards/a": float("nan")}) == ["rewards/a is nan"]
    watch = AlarmConfig(("fixed",), patience=4)
    fixed = Every(1, lambda done, state: Report({"fixed": 1.0}))
    toy_stage.run(tmp_path / "w", 2, hooks=[fixed], alarm=watch)
    results = toy_stage.run(tmp_path / "w", 5, hooks=[fixed], alarm=watch)
    assert [result.metrics["alarms"] for result in results] == [0, 1, 1]


def test_preemption_restores_the_handlers():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
        assert preemption.asked()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert latest_step("nowhere") is None
