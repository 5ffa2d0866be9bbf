"""Notebooks run from the first cell to the last, and each has the same cells as its script.

The pairs of notebook and script are those of jupytext.
"""

import os
import pathlib
import subprocess
import sys

import jupytext
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs(script, tmp_path):
    """Every claim of a notebook is asserted in it, so running it is the test."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("XLA_FLAGS", None)  # one device, as a reader has it
    process = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    assert not list(tmp_path.iterdir()), "a notebook must not leave files behind"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_and_script_have_the_same_cells(script):
    notebook = script.with_suffix(".ipynb")
    assert cells(notebook) == cells(script), (
        f"they differ: run jupytext --update --to ipynb {script.relative_to(ROOT)}"
    )
    assert notebook.stat().st_size < 200_000, (
        "clear its outputs: images of a run do not belong in a repository"
    )


def test_every_notebook_has_a_script():
    assert SCRIPTS
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in notebooks] == [path.stem for path in SCRIPTS]
