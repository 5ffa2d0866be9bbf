import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.workdir import open_workdir
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


@pytest.mark.parametrize(
    "change, said",
    [
        ({"rate": 2.0}, r"rate is 1.0 there and 2.0 here"),
        ({"rate": 1}, r"rate is 1.0 there and 1 here"),
        (
            {"model": {"size": "big", "layers": [1, 2]}},
            r"model.size is 'tiny' there and 'big' here",
        ),
        ({"new": None}, r"new is 'absent' there and None here"),
    ],
)
def test_another_config_is_named_and_nothing_is_written(tmp_path, change, said):
    workdir = open_workdir(tmp_path, CONFIG)
    before = workdir.config.read_text()
    with pytest.raises(UserError, match=said + r".*choose another --workdir.*steps may differ"):
        open_workdir(tmp_path, {**CONFIG, **change})
    assert workdir.config.read_text() == before


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="no run of ours"):
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
