"""Losses and gradients that are not finite: skipped, counted, and in the end an error."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_stage
from helpers import apply_update, metric_rows
from test_loop import newest_checkpoint
from test_update import OPTIMIZER, loss, state_and_batch

from corl_jax.core.errors import UserError
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.reference_policy import ReferencePolicy
from corl_jax.engine.update import make_update


def to_bytes(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def with_memory(state):
    """The state with everything that an update may change."""
    reference = ReferencePolicy(jax.tree.map(jnp.copy, state.trainable), 1, 0.5)
    previous = jax.tree.map(jnp.copy, state.trainable)
    return dataclasses.replace(state, previous=previous, reference=reference)


@pytest.mark.parametrize(
    ("name", "value"),
    [("y", np.nan), ("y", np.inf), ("y", 1e30), ("weights", np.nan)],
    ids=["nan", "inf", "overflow in the gradient", "nan weight"],
)
def test_an_update_that_is_not_finite_changes_nothing(name, value):
    state, batch = state_and_batch()
    state = with_memory(state)
    update = make_update(
        loss, lambda algo, metrics: {"coef": algo["coef"] + 1}, OPTIMIZER, 2, state
    )
    bad = batch | {"ask": batch["ask"] | {name: batch["ask"][name].at[3].set(value)}}
    state, _ = apply_update(update, state, batch)  # moments are not 0 any more
    before = to_bytes(state)

    state, metrics = apply_update(update, state, bad)
    assert to_bytes(state) == before
    assert float(metrics["skipped_updates"].value) == 1 and float(metrics["update_norm"].value) == 0
    assert np.isfinite(metrics["param_norm"].value)
    assert not np.isfinite(metrics["loss"].value + metrics["grad_norm"].value)

    # A finite batch then moves all of it.
    state, metrics = apply_update(update, state, batch)
    assert float(metrics["skipped_updates"].value) == 0 and int(state.step) == 2
    changed = [old != new for old, new in zip(before, to_bytes(state), strict=True)]
    assert sum(changed) == len(changed) - 1  # all but the frozen parameters


def test_a_state_of_the_algorithm_that_is_not_finite_is_skipped_too():
    state, batch = state_and_batch()
    update = make_update(
        loss, lambda algo, metrics: {"coef": algo["coef"] * jnp.nan}, OPTIMIZER, 1, state
    )
    before = to_bytes(state)
    state, metrics = apply_update(update, state, batch)
    assert to_bytes(state) == before and float(metrics["skipped_updates"].value) == 1


class NanStage(toy_stage.ToyStage):
    """The toy stage with targets that are NaN in the steps ``nan_steps``."""

    def __init__(self, *nan_steps, **options):
        super().__init__(**options)
        self.nan_steps = nan_steps

    def batches(self, state, raw, step):
        if step in self.nan_steps:
            raw = raw | {"y": raw["y"] * np.float32("nan")}
        for batch, _ in super().batches(state, raw, step):
            yield batch, {}


def test_skipped_steps_are_counted_and_raise_an_alarm(tmp_path):
    stage = NanStage(1, 4, 5, updates_per_step=2)
    results = toy_stage.run(tmp_path / "w", 8, stage)
    assert [result.metrics["skipped_updates"] for result in results] == [0, 2, 0, 0, 2, 2, 0, 0]
    alarms = [result.metrics["alarms"] for result in results]
    assert [count > 0 for count in alarms] == [False, True, False, False, True, True, False, False]
    rows = metric_rows(tmp_path / "w")
    assert rows[1]["loss"] is None and rows[1]["update_norm"] == 0 and rows[2]["loss"] is not None


def test_three_skipped_steps_in_a_row_end_the_run_and_keep_its_checkpoints(tmp_path):
    stage = NanStage(4, 5, 6, 7)
    message = (
        r"step 7 is number 3 in a row without a finite loss and gradient, and its updates were "
        r"skipped; its records are 'row 6.0', .*'row 6.7', and checkpoint 4 is kept"
    )
    with pytest.raises(UserError, match=message) as error:
        toy_stage.run(tmp_path / "w", 8, stage, save_every=2)
    assert "\n" not in str(error.value)
    assert saved_steps(tmp_path / "w" / "checkpoints") == [2, 4]
    assert [row["step"] for row in metric_rows(tmp_path / "w")][-1] == 7

    # Whoever mends the cause goes on from the last good checkpoint, as if nothing had happened.
    toy_stage.run(tmp_path / "w", 8, NanStage())
    toy_stage.run(tmp_path / "unbroken", 8, NanStage())
    assert metric_rows(tmp_path / "w") == metric_rows(tmp_path / "unbroken")
    assert newest_checkpoint(tmp_path / "w") == newest_checkpoint(tmp_path / "unbroken")


def test_the_count_of_skipped_steps_survives_a_resume(tmp_path):
    """A run that goes on between two of them ends at the same step as an unbroken one."""
    stage = NanStage(2, 3, 4)
    toy_stage.run(tmp_path / "w", 4, stage)  # the last step of a run is saved in any case
    with pytest.raises(UserError, match="step 5 is number 3 in a row"):
        toy_stage.run(tmp_path / "w", 8, stage)


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    stage = toy_stage.ToyStage()
    state, data = stage.init_state(), stage.data_iterator()
    checkpointer = Checkpointer(tmp_path, RunIdentity("toy", {}, {}), keep=1)
    checkpointer.save(1, state, data)
    broken = jax.tree.map(lambda leaf: leaf * jnp.inf, state.opt_state)
    checkpointer.save(2, dataclasses.replace(state, opt_state=broken), data)
    with pytest.raises(UserError, match=r"step 2 cannot be saved: opt_state .* holds NaN or inf"):
        checkpointer.wait()
    checkpointer.close()
    assert saved_steps(tmp_path) == [1]


def test_alarms_for_skipped_updates_and_for_columns_that_are_not_finite():
    alarm = Alarm(AlarmConfig(("loss",)))
    nan_row = {"loss": float("nan"), "skipped_updates": 1.0}
    messages = [alarm.update(row) for row in (nan_row, nan_row | {"skipped_updates": 2.0})]
    assert messages == [
        ["1 update was skipped, since loss or gradient is not finite", "loss is nan"],
        ["2 updates were skipped, since loss or gradient is not finite"],
    ]
    assert alarm.active == 2 and alarm.skipped_steps == 2
    assert alarm.update({"loss": 1.0, "skipped_updates": 0.0}) == []
    assert alarm.active == 0 and alarm.skipped_steps == 0
