"""Damaged checkpoints: every flipped bit is refused or changes nothing, and the way on after it."""

from __future__ import annotations

import json
import random
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy_stage
from helpers import metric_rows
from test_checkpoint import IDENTITY, sharded_state
from test_loop import newest_checkpoint

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.handoff import load_params, saved_manifest, saved_shapes
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.state import abstract


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a toy run of 8 steps, with checkpoints 4 and 8. Not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "w"
    toy_stage.run(folder, 8)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of it, to be hurt."""
    shutil.copytree(run, tmp_path / "w")
    return tmp_path / "w"


def flip_bit(path, position, bit):
    """Flips one bit of a file; returns a function that mends it."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    path.write_bytes(bytes(damaged))
    return lambda: path.write_bytes(content)


def flip_everywhere(folder, flips_per_file, read):
    """Flips bits in every file under ``folder``, one at a time, and calls ``read`` each time.

    Returns:
      how often ``read`` raised a UserError of one line, and what it returned otherwise.
    """
    rng, refused, results = random.Random(0), 0, []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for _ in range(flips_per_file):
            mend = flip_bit(path, rng.randrange(path.stat().st_size), rng.randrange(8))
            try:
                results.append(read())
            except UserError as error:
                assert "\n" not in str(error) and "damaged" in str(error)
                refused += 1
            mend()
    return refused, results


def test_a_flipped_bit_anywhere_is_refused(copy):
    """All files are in the inventory, and the inventory itself is a table of nothing else."""
    refused, results = flip_everywhere(
        copy / "checkpoints" / "8", 6, lambda: newest_checkpoint(copy)
    )
    assert results == [] and refused > 50


@pytest.mark.parametrize("part", ["manifest", "data", "state"])
def test_what_is_restored_has_digests_beside_the_inventory(copy, part):
    """Without an inventory, as in a bucket: refused, or the same bits."""
    expected = newest_checkpoint(copy)
    (copy / "checkpoints" / "8" / "files.json").unlink()
    flips = {"manifest": 10, "data": 10, "state": 2}[part]
    refused, results = flip_everywhere(
        copy / "checkpoints" / "8" / part, flips, lambda: newest_checkpoint(copy)
    )
    assert refused and all(result == expected for result in results)


def test_a_flipped_bit_in_a_large_array_is_refused(tmp_path):
    """Arrays beyond some kilobytes are in files of their own, which no library checks."""
    state, data = sharded_state(), toy_stage.ToyStage().data_iterator()
    checkpointer = Checkpointer(tmp_path, IDENTITY)
    checkpointer.save(1, state, data)
    checkpointer.wait()
    (tmp_path / "1" / "files.json").unlink()
    files = [path for path in (tmp_path / "1" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    messages = []
    for share in (0.25, 0.5, 0.75):
        mend = flip_bit(largest, int(share * largest.stat().st_size), 3)
        # The library itself notices what hits one of its tables, and some bytes are in no array.
        try:
            restored = checkpointer.restore(abstract(state), data).state
            jax.tree.map(np.testing.assert_array_equal, restored, state)
        except UserError as error:
            assert "/1 is damaged" in str(error)
            messages.append(str(error))
        mend()
    assert any("is not as it was written" in message for message in messages), messages
    assert checkpointer.restore(abstract(state), data).step == 1
    checkpointer.close()


@pytest.mark.parametrize(
    "name", ["opt_state 1 nu head/kernel", "algo follow", "trainable head/bias"]
)
def test_the_array_that_changed_is_named(copy, name):
    """Such as by an error of the storage that no file shows: the digest in the manifest differs."""
    path = copy / "checkpoints" / "8" / "manifest" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["arrays"][name] = manifest["arrays"][name][:-1] + "x"
    del manifest["digest"]
    path.write_text(json.dumps(manifest))
    (copy / "checkpoints" / "8" / "files.json").unlink()
    with pytest.raises(UserError, match=f"8 is damaged .{name} is not as it was written"):
        newest_checkpoint(copy)


def test_a_step_folder_of_another_name_is_refused(copy):
    shutil.rmtree(copy / "checkpoints" / "8")
    (copy / "checkpoints" / "4").rename(copy / "checkpoints" / "6")
    with pytest.raises(UserError, match="checkpoints/6 is damaged .its manifest is of step 4"):
        newest_checkpoint(copy)
    with pytest.raises(UserError, match="its manifest is of step 4"):
        saved_manifest(copy)


def test_parameters_that_are_handed_off_are_compared_one_by_one(copy):
    """Also where a stage takes only some of them."""
    head = jax.ShapeDtypeStruct(
        (6, 1), np.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    assert set(load_params(copy, {"head/kernel": head})) == {"head/kernel"}
    path = copy / "checkpoints" / "8" / "manifest" / "manifest.json"
    manifest = json.loads(path.read_text())
    name = "trainable head/kernel"
    manifest["arrays"][name] = manifest["arrays"][name][:-1] + "x"
    del manifest["digest"]
    path.write_text(json.dumps(manifest))
    (copy / "checkpoints" / "8" / "files.json").unlink()
    with pytest.raises(UserError, match=f"{name} is not as it was written"):
        load_params(copy, {"head/kernel": head})


def test_fallback_goes_on_from_the_checkpoint_before(copy, run, capsys):
    data_file = copy / "checkpoints" / "8" / "data" / "position.json"
    flip_bit(data_file, 3, 0)
    advice = "add --config.resume.fallback=True or delete that folder to resume from step 4"
    with pytest.raises(UserError, match=f"data/position.json is not as it was written.; {advice}"):
        toy_stage.run(copy, 10)
    results = toy_stage.run(copy, 10, fallback=True)
    assert [result.step for result in results] == list(range(5, 11))

    # The damaged step is kept under another name, and written anew under its own.
    assert saved_steps(copy / "checkpoints") == [8, 10]
    assert (copy / "checkpoints" / "8.damaged").is_dir()
    assert metric_rows(copy)[:8] == metric_rows(run)
    digests = [read_manifest(folder / "checkpoints" / "8").arrays for folder in (copy, run)]
    assert digests[0] == digests[1]


def test_fallback_says_what_is_lost_and_repairs_a_complete_run(copy, monkeypatch):
    from corl_jax.engine.recorder import Recorder

    lines = []
    monkeypatch.setattr(Recorder, "log", lambda recorder, text: lines.append(text))
    (copy / "checkpoints" / "8" / "state" / "_METADATA").unlink()
    assert toy_stage.run(copy, 8) == []  # the run is complete, and nobody asks for more
    assert [result.step for result in toy_stage.run(copy, 8, fallback=True)] == [5, 6, 7, 8]
    assert lines[:3] == [
        "checkpoint 8 is damaged (state/_METADATA is missing) and is now called 8.damaged",
        "steps 5 to 8 are lost and trained again",
        f"resuming {copy} from step 4",
    ]
    assert toy_stage.run(copy, 8, fallback=True) == []


def test_without_any_whole_checkpoint_nothing_changes(copy):
    for step in ("4", "8"):
        (copy / "checkpoints" / step / "data" / "position.json").unlink()
    with pytest.raises(UserError, match="all checkpoints in .* are damaged"):
        toy_stage.run(copy, 10, fallback=True)
    assert saved_steps(copy / "checkpoints") == [4, 8]


def write_frozen_into(folder, frozen):
    """Writes the state of a step folder with its frozen parameters, as older versions did."""
    shapes = abstract(toy_stage.ToyStage().init_state())
    with ocp.StandardCheckpointer() as orbax:
        state = orbax.restore(folder / "state", shapes.with_frozen({}))
        beside = orbax.restore(folder.parent / frozen / "state", {"frozen": shapes.frozen})
        orbax.save(folder / "state", state.with_frozen(beside["frozen"]), force=True)
    shutil.rmtree(folder.parent / frozen)


def test_damaged_frozen_parameters_are_taken_from_the_new_state_or_named(copy, run):
    """A resumed run builds them anyway; it writes them again with its next checkpoint."""
    (frozen,) = (copy / "checkpoints").glob("frozen-*")
    flip_bit(frozen / "state" / "_METADATA", 9, 2)
    message = "8 is damaged .frozen-.*: state/_METADATA is not as it was written"
    with pytest.raises(UserError, match=message):
        newest_checkpoint(copy)
    with pytest.raises(UserError, match=message):
        saved_shapes(copy)

    # Whoever has the right ones does not read them.
    toy_stage.run(copy, 10)
    assert metric_rows(copy)[:8] == metric_rows(run)
    assert newest_checkpoint(copy)[0] == 10 and set(saved_shapes(copy)) >= {"scale"}
    shutil.rmtree(frozen)
    with pytest.raises(UserError, match="frozen-.* are missing.; copy that folder, too"):
        saved_shapes(copy)


def test_frozen_parameters_are_written_once(copy):
    (frozen,) = (copy / "checkpoints").glob("frozen-*")
    inodes = {file: file.stat().st_ino for file in frozen.rglob("*")}
    toy_stage.run(copy, 14)
    assert {file: file.stat().st_ino for file in frozen.rglob("*")} == inodes
    assert saved_steps(copy / "checkpoints") == [12, 14]


def test_a_checkpoint_of_an_older_version_resumes_and_says_what_is_not_checked(
    copy, run, monkeypatch
):
    from corl_jax.engine.recorder import Recorder

    lines = []
    monkeypatch.setattr(Recorder, "log", lambda recorder, text: lines.append(text))
    shutil.rmtree(copy / "checkpoints" / "8")
    folder = copy / "checkpoints" / "4"
    path = folder / "manifest" / "manifest.json"
    manifest = json.loads(path.read_text())
    write_frozen_into(folder, manifest["frozen"])
    for key in ("arrays", "data_digest", "inputs", "digest", "frozen"):
        del manifest[key]
    path.write_text(json.dumps(manifest))
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "files.json"]
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    (folder / "files.json").write_text(json.dumps(sizes))

    # What older versions did check is checked, too.
    manifest["params_digest"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its parameters are not as they were written"):
        newest_checkpoint(copy)
    manifest["params_digest"] = read_manifest(run / "checkpoints" / "4").params_digest
    path.write_text(json.dumps(manifest))
    toy_stage.run(copy, 8)
    assert metric_rows(copy) == metric_rows(run)
    assert "older version" in lines[0] and "is not checked" in lines[0]


def test_missing_rows_are_named(copy, run, monkeypatch):
    from corl_jax.engine.recorder import Recorder

    lines = []
    monkeypatch.setattr(Recorder, "log", lambda recorder, text: lines.append(text))
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:2] + rows[4:]))
    toy_stage.run(copy, 9)
    assert [row["step"] for row in metric_rows(copy)] == [1, 2, 5, 6, 7, 8, 9]
    assert (
        f"{copy}/metrics.jsonl has no row for 2 of the 8 steps that are done, the first of them "
        "step 3; the run goes on without them" in lines
    )


def test_no_path_of_this_machine_is_in_a_checkpoint(copy, run):
    """Orbax's marker files would name the folder in which they were written."""
    for path in (copy / "checkpoints").rglob("*"):
        assert path.is_dir() or str(run).encode() not in path.read_bytes(), path
