"""Prepares and executes the notebooks: their common cells, their outputs, and the minutes they take.

    python tests/prepare_notebooks.py                     common cells of all scripts, and their notebooks
    python tests/prepare_notebooks.py --execute 01 04     also runs these and keeps their outputs

The scripts are the sources (jupytext's percent format). Every notebook begins with a badge, and its
first code cell is ``notebooks/first_cell.py``; both are written here, so that an address changes in
one place. A figure in docs/notebooks.md is what ``--execute`` prints. Needs ``corl_jax[test,dev]``.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence

import jupytext
import nbformat

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
FIRST_CELL = (FOLDER / "first_cell.py").read_text("utf-8").strip()
ADDRESS = re.search(r'^REPOSITORY = "https://(github\.com/\S+)"', FIRST_CELL, re.MULTILINE)[1]
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEADER = {
    "extension": ".py",
    "format_name": "percent",
    "notebook_metadata_filter": "kernelspec,-jupytext",
}
KEPT = ("text/plain", "image/png")


def scripts() -> list[pathlib.Path]:
    """The sources of all notebooks in their order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def badge(stem: str) -> str:
    """The link that opens a notebook in Colab."""
    place = ADDRESS.replace("github.com", "github") + f"/blob/main/notebooks/{stem}.ipynb"
    return f"{BADGE}(https://colab.research.google.com/{place})"


def with_common_cells(notebook: nbformat.NotebookNode, stem: str) -> nbformat.NotebookNode:
    """The notebook with its badge below the title, and with the first code cell of all."""
    title, *rest = [line for line in notebook.cells[0].source.split("\n") if BADGE not in line]
    while rest and not rest[0]:
        rest.pop(0)
    notebook.cells[0].source = "\n".join([title, "", badge(stem), "", *rest])
    next(cell for cell in notebook.cells if cell.cell_type == "code").source = FIRST_CELL
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext's are random, and would change every time
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> float:
    """Runs the cells from the first to the last in a folder; returns the minutes."""
    from nbclient import NotebookClient

    started = time.time()
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            is_live = "live" in cell.metadata.get("tags", [])
            cell.outputs = [] if is_live else kept_outputs(cell.outputs)
    return (time.time() - started) / 60


def kept_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Texts and figures; what libraries write to stderr is neither."""
    kept = [output for output in outputs if output.get("name") != "stderr"]
    for output in kept:
        if "data" in output:
            output.data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
    return kept


def main() -> None:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--execute", nargs="*", default=[], help="numbers of notebooks to run")
    parser.add_argument("--folder", type=pathlib.Path, help="keep their runs in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        prepare(args.execute, args.folder or pathlib.Path(scratch))


def prepare(numbers: Sequence[str], folder: pathlib.Path) -> None:
    """Writes scripts and notebooks, of which those of ``numbers`` run below ``folder``."""
    for script in scripts():
        source = with_common_cells(jupytext.read(script), script.stem)
        source.metadata = {"kernelspec": KERNEL}
        jupytext.write(source, script, fmt=HEADER)
        path = script.with_suffix(".ipynb")
        notebook = with_common_cells(jupytext.read(script), script.stem)
        if script.stem[:2] in numbers:
            (folder / script.stem).mkdir(parents=True, exist_ok=True)
            minutes = execute(notebook, folder / script.stem)
            print(f"{script.stem}: {minutes:.1f} minutes", flush=True)
        elif path.exists():
            keep_outputs(notebook, jupytext.read(path))
        jupytext.write(notebook, path)


def keep_outputs(notebook: nbformat.NotebookNode, former: nbformat.NotebookNode) -> None:
    """Gives cells that have not changed the outputs of the former notebook."""
    outputs = {cell.source: cell for cell in former.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source in outputs:
            cell.outputs = outputs[cell.source].outputs
            cell.execution_count = outputs[cell.source].execution_count


if __name__ == "__main__":
    main()
