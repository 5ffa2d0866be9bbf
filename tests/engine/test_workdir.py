import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.workdir import has_steps, open_workdir, undo_of
from corl_jax.engine.writers import rewind_metrics

CONFIG = {"steps": 10, "model": {"size": "tiny", "layers": [1, 2]}, "rate": 1.0}


def test_creates_and_reopens(tmp_path):
    first = open_workdir(tmp_path / "a" / "b", CONFIG)
    assert {path.name for path in first.path.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "samples",
    }
    assert open_workdir(tmp_path / "a" / "b", {**CONFIG, "steps": 20}) == first
    assert '"steps": 20' in first.config.read_text()


def test_a_run_resumes_with_another_unrolling_of_its_layers(tmp_path):
    """Of runs before ``model.unroll`` had 0 for the default of the platform, for example."""
    open_workdir(tmp_path, {**CONFIG, "model": {"size": "tiny", "unroll": 4}})
    current = {**CONFIG, "model": {"size": "tiny", "unroll": 0}}
    assert '"unroll": 0' in open_workdir(tmp_path, current).config.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 2.0}, r"rate was 1.0 and is now 2.0"),
        ({"rate": 1}, r"rate was 1.0 and is now 1;"),
        (
            {"model": {"size": "big", "layers": [1, 2]}},
            r"model.size was 'tiny' and is now 'big'",
        ),
        ({"new": None}, r"new was 'absent' and is now None"),
    ],
)
def test_a_changed_key_is_named_and_nothing_is_written(tmp_path, change, message):
    workdir = open_workdir(tmp_path, CONFIG)
    before = workdir.config.read_text()
    with pytest.raises(UserError, match=message + r".*only steps and model.unroll may differ"):
        open_workdir(tmp_path, {**CONFIG, **change})
    assert workdir.config.read_text() == before


def test_a_config_of_an_older_version_is_the_same_config(tmp_path):
    """Its keys have other names today; a value that differs is named by the key of today."""
    older = {"steps": 10, "rl": {"group": 8, "guidance": 2.0}, "evals": {"n": 64}}
    current = {
        "steps": 10,
        "rl": {"rollout": {"group_size": 8, "guidance_scale": 2.0}},
        "evals": {"num_records": 64},
    }
    open_workdir(tmp_path, older)
    current["rl"]["rollout"]["group_size"] = 4
    with pytest.raises(UserError, match=r"rl.rollout.group_size was 8 and is now 4"):
        open_workdir(tmp_path, current)
    current["rl"]["rollout"]["group_size"] = 8
    assert '"group_size": 8' in open_workdir(tmp_path, current).config.read_text()


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not a run of corl_jax"):
        open_workdir(tmp_path, CONFIG)
    with pytest.raises(UserError, match="is a file"):
        open_workdir(tmp_path / "thesis.tex", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_rewind_keeps_rows_up_to_the_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    rewind_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        rewind_metrics(path, 2)


def test_a_start_that_failed_is_undone(tmp_path):
    """The folders that it made are gone; what is not of a run stays, and so does a run."""
    undo = undo_of(tmp_path / "runs" / "a")
    made = open_workdir(tmp_path / "runs" / "a", CONFIG)
    (made.path / "config.json.part").touch()
    assert not has_steps(made)
    undo()
    assert list(tmp_path.iterdir()) == []

    undo = undo_of(tmp_path / "b")
    noted = open_workdir(tmp_path / "b", CONFIG)
    (noted.path / "my notes.txt").write_text("kept")
    undo()
    assert [path.name for path in noted.path.iterdir()] == ["my notes.txt"]

    run = open_workdir(tmp_path / "c", CONFIG)
    run.metrics.write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "lo')
    undo_of(tmp_path / "c")()
    assert has_steps(run) and run.config.exists()
