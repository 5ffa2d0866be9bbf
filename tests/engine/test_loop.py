"""The training loop: rows, checkpoints, exact resume, hooks, alarms, and signals."""

from __future__ import annotations

import dataclasses
import json
import signal

import grain
import jax
import numpy as np
import pytest
import toy_stage
from helpers import metric_rows
from PIL import Image

from corl_jax.core import trees
from corl_jax.core.errors import StopRequested, UserError
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.handoff import load_params, saved_manifest, saved_shapes
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.checkpoints.step_folders import latest_step, saved_steps
from corl_jax.engine.hooks import PeriodicHook, Preempted, Preemption, Profile, Report
from corl_jax.engine.state import abstract


def newest_checkpoint(path):
    """Everything that the newest checkpoint of a toy run has: step, bytes of the state, next batch."""
    stage = toy_stage.ToyStage()
    checkpointer = Checkpointer(path / "checkpoints", RunIdentity("toy", {}, {}))
    data = stage.data_iterator()
    read = checkpointer.restore(abstract(stage.init_state()), data)
    checkpointer.close()
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(read.state)]
    return read.step, leaves, next(data)["y"].tobytes()


def test_one_row_per_step_and_the_loss_falls(tmp_path):
    results = toy_stage.run(tmp_path / "w", 12)
    assert [result.step for result in results] == list(range(1, 13))
    assert results[-1].metrics["loss"] < results[0].metrics["loss"]
    lines = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {"step": result.step, **result.metrics} for result in results
    ]
    assert saved_steps(tmp_path / "w" / "checkpoints") == [8, 12]


def test_stop_and_resume_equals_never_stopped(tmp_path):
    unbroken = toy_stage.ToyStage()
    toy_stage.run(tmp_path / "unbroken", 11, unbroken, save_every=3)
    resumed = toy_stage.ToyStage()
    toy_stage.run(tmp_path / "resumed", 5, resumed)

    # Rows that a killed run leaves after its last checkpoint.
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0.5}\n{"step": 7, "lo')
    toy_stage.run(tmp_path / "resumed", 11, resumed)
    assert metric_rows(tmp_path / "resumed") == metric_rows(tmp_path / "unbroken")
    assert newest_checkpoint(tmp_path / "resumed") == newest_checkpoint(tmp_path / "unbroken")
    assert resumed.seen == unbroken.seen
    assert [step for step, _ in unbroken.seen] == list(range(11))


def test_a_complete_run_returns_at_once(tmp_path):
    toy_stage.run(tmp_path / "w", 3)
    text = (tmp_path / "w" / "metrics.jsonl").read_text()
    unused = toy_stage.ToyStage()
    assert toy_stage.run(tmp_path / "w", 3, unused) == [] and unused.seen == []
    assert (tmp_path / "w" / "metrics.jsonl").read_text() == text


def test_several_updates_share_a_row(tmp_path):
    results = toy_stage.run(tmp_path / "w", 2, toy_stage.ToyStage(updates_per_step=3))
    assert len(results) == 2 and results[0].metrics["i"] == 2
    rates = [0.05 * (i + 1) / 3 for i in range(3)]
    assert results[0].metrics["learning_rate"] == pytest.approx(np.mean(rates))


def test_hooks_add_to_the_row_and_their_images_are_written(tmp_path):
    def report(steps_done, state):
        image = Image.new("RGB", (4, 4))
        return Report({"evals/kernel": float(state.params["head/kernel"][0, 0])}, {"grid": image})

    results = toy_stage.run(tmp_path / "w", 5, hooks=[PeriodicHook(2, report, at_start=True)])
    assert [result.step for result in results if "evals/kernel" in result.metrics] == [0, 2, 4, 5]
    assert [row["step"] for row in metric_rows(tmp_path / "w")] == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "w" / "samples" / "step_000004_grid.png").exists()
    assert results[0].metrics["evals/kernel"] == pytest.approx(0.1)


def test_profile_writes_a_trace(tmp_path):
    toy_stage.run(tmp_path / "w", 3, hooks=[Profile(tmp_path / "trace", 1, 1)])
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_parameters_are_handed_off(tmp_path):
    toy_stage.run(tmp_path / "w", 2)
    manifest, shapes = saved_manifest(tmp_path / "w"), saved_shapes(tmp_path / "w")
    assert (manifest.stage, manifest.step, manifest.model) == ("toy", 2, {"width": 6})
    assert set(shapes) == {"head/kernel", "head/bias", "scale"}

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    specs = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for name, leaf in shapes.items()
    }
    assert trees.digest(load_params(tmp_path / "w", specs)) == manifest.params_digest
    only_scale = {"scale": specs["scale"]}
    assert set(load_params(tmp_path / "w" / "checkpoints" / "2", only_scale)) == {"scale"}
    with pytest.raises(UserError, match="no parameter 'tail'"):
        load_params(tmp_path / "w", {"tail": specs["scale"]})
    with pytest.raises(UserError, match="has no checkpoint"):
        saved_manifest(tmp_path)


def test_steps_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="config.steps must be at least 1; got 0"):
        toy_stage.run(tmp_path / "w", 0)


def test_alarm_where_one_reward_decides_alone():
    alarm = Alarm(AlarmConfig(patience=2, dominant_share=0.9))
    messages = [
        alarm.update(
            {"image/reward_std_share/cycle": share, "image/reward_std_share/clip": 1 - share}
        )
        for share in (0.95, 0.5, 0.95, 0.96, 0.97)
    ]
    assert messages[:3] == [[], [], []] and messages[4] == []
    assert messages[3] == [
        "image: for 2 steps the reward 'cycle' alone has made the difference between "
        "samples of a group (96%)"
    ]
    assert alarm.active == 1


def test_alarm_where_the_held_out_reward_falls_as_the_trained_one_rises():
    alarm, messages = Alarm(AlarmConfig(diverging_probes=2)), []
    for step, held_out_reward in enumerate((0.5, 0.6, 0.5, 0.4, 0.3, 0.5)):
        messages += [
            alarm.update({"image/reward": step / 10 - 0.01}),
            alarm.update({"image/reward": step / 10} | {"image/held_out_reward": held_out_reward}),
        ]
    assert [i for i, message in enumerate(messages) if message] == [7]
    assert messages[7] == [
        "image: the reward on held-out prompts fell 2 times in a row while the trained one rose"
    ]
    assert alarm.active == 0
    for _ in range(4):  # both fall, which is no alarm
        assert alarm.update({"image/reward": 0.0, "image/held_out_reward": 0.0}) == []


def test_alarm_is_printed_once_and_survives_a_resume(tmp_path):
    alarm = Alarm(AlarmConfig(("rewards/*",), patience=3))
    messages = [alarm.update({"rewards/a": 0.0, "loss": 1.0}) for _ in range(4)]
    assert messages == [[], [], ["rewards/a has been exactly 0 for 3 steps"], []]
    assert alarm.active == 1
    assert alarm.update({"rewards/a": 0.5}) == [] and alarm.active == 0
    assert alarm.update({"rewards/a": float("nan")}) == ["rewards/a is nan"]

    watch = AlarmConfig(("fixed",), patience=4)
    fixed = PeriodicHook(1, lambda steps_done, state: Report({"fixed": 1.0}))
    toy_stage.run(tmp_path / "w", 2, hooks=[fixed], alarms=watch)
    results = toy_stage.run(tmp_path / "w", 5, hooks=[fixed], alarms=watch)
    assert [result.metrics["alarms"] for result in results] == [0, 1, 1]


def test_preemption_restores_the_handlers():
    handler = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert latest_step("nowhere") is None


class FailingStage(toy_stage.ToyStage):
    """A stage that raises ``error`` in the middle of step 6, before its update."""

    error: BaseException = UserError("the reward failed on row 3")

    def batches(self, state, raw, step):
        if step == 6:
            raise self.error
        yield from super().batches(state, raw, step)


@pytest.fixture(scope="module")
def nine_steps(tmp_path_factory):
    """The work directory of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    toy_stage.run(folder, 9)
    return folder


@pytest.mark.parametrize("where", ["step", "data", "hook"])
def test_an_error_in_the_middle_saves_first_and_the_run_goes_on(tmp_path, nine_steps, where):
    def fail(steps_done, state):
        raise UserError("the reward failed on row 3.")

    broken, options = toy_stage.ToyStage(), {}
    if where == "step":
        broken = FailingStage()
    elif where == "data":
        broken.data_iterator = lambda: BrokenData(toy_stage.ToyStage().data_iterator(), 6)
    else:
        options["hooks"] = [PeriodicHook(6, fail)]
    message = (
        r"the reward failed on row 3\. Step 6 of 9 is saved in .*/checkpoints; "
        "run the same command again, corrected, to go on"
    )
    with pytest.raises(UserError, match=message):
        toy_stage.run(tmp_path / "broken", 9, broken, **options)

    # The rows are those of the steps that are done, and nothing is lost.
    assert latest_step(tmp_path / "broken") == 6
    assert [row["step"] for row in metric_rows(tmp_path / "broken")] == list(range(1, 7))
    toy_stage.run(tmp_path / "broken", 9)
    assert metric_rows(tmp_path / "broken") == metric_rows(nine_steps)
    assert newest_checkpoint(tmp_path / "broken") == newest_checkpoint(nine_steps)


class BrokenData(grain.DatasetIterator):
    """Raises at a batch, as a record that cannot be read does."""

    def __init__(self, inner, batch):
        super().__init__()
        self._inner, self._left = inner, batch

    def __next__(self):
        value = next(self._inner)
        self._left -= 1
        if self._left < 0:
            raise UserError("the reward failed on row 3")
        return value

    def get_state(self):
        return self._inner.get_state()

    def set_state(self, state):
        self._inner.set_state(state)


def test_a_signal_to_stop_within_a_step_saves_the_step_before(tmp_path, capsys):
    stage = FailingStage()
    stage.error = StopRequested()
    with pytest.raises(Preempted):
        toy_stage.run(tmp_path / "w", 9, stage)
    assert latest_step(tmp_path / "w") == 6
    assert "asked to stop: step 6 of 9 is saved" in capsys.readouterr().err


def test_an_error_in_the_first_step_leaves_a_new_run(tmp_path):
    stage = FailingStage()
    with pytest.raises(UserError, match="row 3$"):
        toy_stage.run(tmp_path / "w", 9, dataclasses.replace(stage), hooks=[FailAtOnce()])
    assert latest_step(tmp_path / "w") is None
    assert len(toy_stage.run(tmp_path / "w", 9)) == 9


class FailAtOnce:
    """A hook that raises before the first step."""

    def before_step(self, steps_done):
        raise UserError("the reward failed on row 3")

    def is_due(self, steps_done, is_last):
        return False

    def close(self):
        pass


def test_an_error_that_cannot_be_saved_after_says_both(tmp_path, monkeypatch):
    def refuse(*args):
        raise UserError("the disk is full")

    monkeypatch.setattr(Checkpointer, "save", refuse)
    message = "the reward failed on row 3; and the run cannot be saved: the disk is full"
    with pytest.raises(UserError, match=message):
        toy_stage.run(tmp_path / "w", 9, FailingStage(), save_every=0)
