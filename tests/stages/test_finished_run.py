"""What a run that has ended says when it is started again, and that nothing changes then."""

from __future__ import annotations

import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.workdir import open_workdir
from corl_jax.stages.config import without_resume
from corl_jax.stages.finished_run import finished_run

MAY_DIFFER = ("steps", "hooks.trace_steps")


@pytest.fixture
def config(small_config):
    return small_config("unified", steps=3, **{"evals.num_records": 2})


@pytest.fixture
def folder(config, tmp_path):
    """A work directory with all steps, the evaluation and the page."""
    workdir = open_workdir(tmp_path / "run", without_resume(config))
    (workdir.checkpoints / "3").mkdir()
    (workdir.path / "eval.json").write_text(json.dumps({"after_step": 3, "run": {}}))
    (workdir.path / "report.html").write_text("page")
    return workdir.path


def state(folder):
    """Path to bytes and time of every file and folder."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def test_a_complete_run_has_one_line_and_stays_as_it_is(config, folder):
    before = state(folder)
    line = finished_run(config, folder, MAY_DIFFER)
    assert "is already at step 3 of 3" in line and "raise config.steps" in line
    assert str(folder / "report.html") in line and "\n" not in line

    # Keys that a resumed run may change, change nothing of one that is complete.
    config["hooks"]["trace_steps"] = 5
    assert "already at step 3" in finished_run(config, folder, MAY_DIFFER)
    assert state(folder) == before


def test_fewer_steps_than_are_done_are_refused(config, folder):
    before = state(folder)
    config["steps"] = 2
    message = "is already at step 3; got config.steps=2. Raise config.steps .*corl report"
    with pytest.raises(UserError, match=message):
        finished_run(config, folder, MAY_DIFFER)
    assert state(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda config, folder: config.update(steps=4),
        lambda config, folder: config["resume"].update(fallback=True),
        lambda config, folder: config.update(seed=1),  # refused where the folder is opened
        lambda config, folder: (folder / "report.html").unlink(),
        lambda config, folder: (folder / "eval.json").unlink(),
        lambda config, folder: (folder / "eval.json").write_text('{"after_step": 2}'),
        lambda config, folder: (folder / "checkpoints" / "3").rmdir(),
        lambda config, folder: (folder / "config.json").unlink(),
    ],
)
def test_a_run_with_something_to_do_goes_on(config, folder, change):
    change(config, folder)
    assert finished_run(config, folder, MAY_DIFFER) is None


def test_a_run_without_evaluation_is_complete_with_its_page(config, tmp_path):
    config["evals"]["num_records"] = 0
    workdir = open_workdir(tmp_path / "run", without_resume(config))
    (workdir.checkpoints / "3").mkdir()
    assert finished_run(config, workdir.path, MAY_DIFFER) is None
    (workdir.path / "report.html").touch()
    line = finished_run(config, workdir.path, MAY_DIFFER)
    assert line.endswith(f"raise config.steps to train on, or see {workdir.path / 'report.html'}")


def test_a_new_folder_is_not_made(config, tmp_path):
    assert finished_run(config, tmp_path / "new", MAY_DIFFER) is None
    assert not (tmp_path / "new").exists()
