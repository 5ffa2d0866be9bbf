"""Notebooks run from the first cell to the last, and each has the same cells as its script.

The pairs of notebook and script are those of jupytext. ``python tests/prepare_notebooks.py`` writes what they
have in common and executes them; outputs are committed.
"""

import base64
import os
import re
import subprocess
import sys

import jupytext
import nbformat
import prepare_notebooks as notebooks
import pytest

from corl_jax.core.private_text import find_private, machine_names

SCRIPTS = notebooks.scripts()
STEPS = "2"
"""Of trainings in notebooks; cells are the same with more."""
MAX_BYTES = 600_000
"""Of a notebook with its figures."""
MACHINE_PATH = re.compile(r"(?<![\w.:/])(/(home|root|tmp|work|usr|opt|Users|content)/|[A-Z]:\\)")


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def code_cells(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_texts(cell):
    for output in cell.outputs:
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@each_script
def test_the_script_runs(script, tmp_path):
    """Every claim of a notebook is asserted in it, so running it is the test."""
    paths = [str(notebooks.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "MPLBACKEND": "Agg",
        "PYTHONPATH": os.pathsep.join(paths),
        "CORL_NOTEBOOK_STEPS": STEPS,
    }
    env.pop("XLA_FLAGS", None)  # one device, as a reader has it
    process = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"runs"}, "a notebook writes work directories and what goes into them"


@each_script
def test_notebook_and_script_have_the_same_cells(script):
    notebook = script.with_suffix(".ipynb")
    assert cells(notebook) == cells(script), "they differ: run python tests/prepare_notebooks.py"


@each_script
def test_common_cells(script):
    """The badge leads to this notebook, and the first code cell is that of all."""
    expected = notebooks.with_common_cells(jupytext.read(script), script.stem)
    sources = [(cell.cell_type, cell.source) for cell in expected.cells]
    assert cells(script) == sources, "they differ: run python tests/prepare_notebooks.py"
    assert f"/{script.stem}.ipynb)" in sources[0][1]


@each_script
def test_outputs_are_there_and_name_no_machine(script):
    """Each cell was executed in order, and figures are pictures; nothing says where it ran."""
    code = code_cells(script)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    figures = 0
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            figure = output.get("data", {}).get("image/png")
            figures += figure is not None
            assert figure is None or base64.b64decode(figure).startswith(b"\x89PNG")
        for text in output_texts(cell):
            assert not MACHINE_PATH.search(text), text
            assert find_private(text, names=machine_names()) is None
    assert figures >= 2
    assert script.with_suffix(".ipynb").stat().st_size < MAX_BYTES, "fewer or smaller figures"


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("saved in /home/someone/runs", True),
        ("at '/tmp/x/run'", True),
        ("C:\\Users\\x", True),
        ("runs/tmp/step", False),
        ("https://example.org/home/x", False),
    ],
)
def test_paths_of_a_machine(text, is_path):
    assert bool(MACHINE_PATH.search(text)) is is_path


def test_every_notebook_has_a_script():
    stems = [path.stem for path in sorted(notebooks.FOLDER.glob("*.ipynb"))]
    assert SCRIPTS and stems == [path.stem for path in SCRIPTS]
