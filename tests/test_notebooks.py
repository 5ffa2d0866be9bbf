"""The notebooks run from the first cell to the last, and each says the same as its text twin."""

import os
import pathlib
import subprocess
import sys

import jupytext
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TWINS = sorted((ROOT / "notebooks").glob("*.py"))


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("twin", TWINS, ids=lambda path: path.stem)
def test_text_twin_runs_as_a_script(twin, tmp_path):
    """Every claim of a notebook is asserted in it, so running it is the test."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(paths)}
    environ.pop("XLA_FLAGS", None)  # one device, as a reader has it
    done = subprocess.run(
        [sys.executable, str(twin)], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing behind"


@pytest.mark.parametrize("twin", TWINS, ids=lambda path: path.stem)
def test_notebook_and_text_twin_hold_the_same_cells(twin):
    notebook = twin.with_suffix(".ipynb")
    assert cells(notebook) == cells(twin), (
        f"they differ: run jupytext --update --to ipynb {twin.relative_to(ROOT)}"
    )
    assert notebook.stat().st_size < 200_000, (
        "clear its outputs: a repository is no place for pictures of a run"
    )


def test_every_notebook_has_a_text_twin():
    assert TWINS
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == [
        path.stem for path in TWINS
    ]
