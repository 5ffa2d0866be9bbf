"""Checkpoints that are written while the run goes on."""

import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toy_stage
from helpers import metric_rows
from test_checkpoint import IDENTITY, sharded_state

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints import snapshot, writing
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.snapshot import free_memory, take_snapshot
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.checkpoints.writing import StepWriter, gb_in_flight_of
from corl_jax.engine.state import abstract


def overwrite(state):
    """The state after an update that donates all but the frozen parameters."""
    update = jax.jit(
        lambda state: jax.tree.map(lambda leaf: (leaf + 1).astype(leaf.dtype), state),
        donate_argnums=0,
    )
    return update(state.with_frozen({})).with_frozen(state.frozen)


def as_bytes(state):
    return [np.array(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("place", ["cpu", "pinned"])
def test_a_snapshot_stays_while_an_update_reuses_the_arrays(monkeypatch, place):
    """Also in pinned memory, as on accelerators."""
    if place == "pinned":
        monkeypatch.setattr(snapshot, "_share", snapshot._copy_to_host)
    state = sharded_state("bfloat16")
    expected = as_bytes(state)
    kept = take_snapshot(state)
    after = overwrite(overwrite(state))
    assert as_bytes(kept.state) == expected != as_bytes(after)
    assert kept.donated_bytes > 0


def test_what_is_written_is_the_state_before_the_update(tmp_path, monkeypatch):
    """The thread begins to read only after the update has run."""
    state, data = sharded_state(), toy_stage.ToyStage().data_iterator()
    expected, gate, write = as_bytes(state), threading.Event(), StepWriter.write
    shapes = abstract(state)

    def write_late(self, *args):
        assert gate.wait(60)
        write(self, *args)

    monkeypatch.setattr(StepWriter, "write", write_late)
    checkpointer = Checkpointer(tmp_path, IDENTITY)
    checkpointer.save(1, state, data)
    checkpointer.release()
    overwrite(state)
    checkpointer.check()
    assert saved_steps(tmp_path) == []
    gate.set()
    checkpointer.wait()
    assert as_bytes(checkpointer.restore(shapes, data).state) == expected
    checkpointer.close()


@pytest.mark.parametrize("reason", ["no memory for a copy", "little memory for the update"])
def test_without_memory_the_update_waits_for_the_whole_write(tmp_path, monkeypatch, reason):
    state, data = sharded_state(), toy_stage.ToyStage().data_iterator()
    if reason == "no memory for a copy":

        def refuse(state):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of pinned memory")

        monkeypatch.setattr(writing, "take_snapshot", refuse)
    else:
        monkeypatch.setattr(snapshot, "free_memory", lambda: 2**20)
    checkpointer = Checkpointer(tmp_path, IDENTITY)
    checkpointer.save(1, state, data)
    checkpointer.release()
    assert saved_steps(tmp_path) == [1]
    checkpointer.close()


def test_an_error_beside_the_run_is_one_line_at_the_next_step(tmp_path, monkeypatch):
    finish, lines = writing.finish_step, []

    def refuse(folder, step, keep):
        if step == 8:
            raise UserError(f"{folder}/{step} cannot be written (no space); free some")
        finish(folder, step, keep)

    monkeypatch.setattr(writing, "finish_step", refuse)
    stage = toy_stage.ToyStage(seconds_per_step=0.05)
    with pytest.raises(UserError, match="8 cannot be written") as error:
        for result in toy_stage.start(tmp_path / "w", 400, stage):
            lines.append(result.step)
    assert "\n" not in str(error.value) and 8 <= lines[-1] < 100
    assert saved_steps(tmp_path / "w" / "checkpoints") == [4]
    monkeypatch.undo()
    toy_stage.run(tmp_path / "w", 12)
    toy_stage.run(tmp_path / "unbroken", 12)
    assert metric_rows(tmp_path / "w") == metric_rows(tmp_path / "unbroken")


def test_rows_have_the_seconds_of_update_and_checkpoint(tmp_path):
    begin = time.perf_counter()
    results = toy_stage.run(tmp_path / "w", 6, save_every=2)
    seconds = time.perf_counter() - begin
    columns = {
        name: [result.metrics[name] for result in results]
        for name in ("time/update", "time/checkpoint")
    }
    assert min(columns["time/update"]) > 0 and sum(columns["time/update"]) < seconds
    # Saved after steps 2 and 4, so the rows after them have it.
    held = columns["time/checkpoint"]
    assert min(held[2], held[4]) > max(held[0], held[1]) and sum(held) < seconds


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 64 kB\n")
    assert free_memory(tmp_path) == 64 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("50000\n")
    (group / "memory.current").write_text("30000\n")
    (group / "memory.stat").write_text("anon 10000\ninactive_file 9000\n")
    assert free_memory(tmp_path) == 29000
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 64 * 1024
    assert free_memory(tmp_path / "nowhere") is None


def test_bytes_in_flight_hold_the_largest_shard():
    def leaf(*sizes):
        shards = [SimpleNamespace(data=SimpleNamespace(nbytes=size)) for size in sizes]
        return SimpleNamespace(addressable_shards=shards)

    assert gb_in_flight_of([leaf(10), leaf(20)]) == 2
    # Orbax asks for less than the limit.
    assert gb_in_flight_of([leaf(10), leaf(3 * 10**9, 10)]) == 4
