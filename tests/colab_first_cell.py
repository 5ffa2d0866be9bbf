"""Runs the first cell of every notebook as Colab would: its Python, and its older packages in the way.

    python tests/colab_first_cell.py --python python3.13 --env FOLDER [--wheel corl_jax.whl]

FOLDER becomes an environment of Python 3.13 with what Colab has before anyone installs anything
(``colab_packages.txt``, with jax 0.7.2, its plug-in of CUDA 12 and numpy 2.1.3). Every notebook gets a
kernel of its own there, with numpy in memory as Colab's kernel has it: the first one installs
corl_jax, from this checkout or from a wheel, and the others find it. Then the shipped policy draws,
and ``pip check`` says whether what corl_jax requires is there. Seconds are printed.

It needs an index of packages, 3 GB of disk and some minutes, so a maintainer runs it and no test does.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jupytext

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ROOT / "tests" / "colab_packages.txt"
PLUGINS = ("jax-cuda12-plugin==0.7.2", "jax-cuda12-pjrt==0.7.2")
"""Installed without the libraries of CUDA, which are 3 GB and of no use without a GPU."""

DRIVER = """
import pathlib, sys, time
from jupyter_client.manager import start_new_kernel

def show(message):
    content = message["content"]
    if message["msg_type"] in ("stream", "error"):
        print(content.get("text") or f"{content['ename']}: {content['evalue']}\\n", end="")

manager, client = start_new_kernel(startup_timeout=600, cwd=sys.argv[1])
statuses = []
for cell in sys.argv[2:]:
    started = time.time()
    code = pathlib.Path(cell).read_text("utf-8")
    reply = client.execute_interactive(code, timeout=3600, output_hook=show)
    statuses.append(reply["content"]["status"])
    print(f"    {statuses[-1]} after {time.time() - started:.1f} s", flush=True)
client.stop_channels()
manager.shutdown_kernel(now=True)
sys.exit(statuses[-1] != "ok")
"""

USE = """
import jax, numpy
from corl_jax import Policy
pictures = Policy.load("tiny").generate(["two green triangles"], samples=2)
print("jax", jax.__version__, "numpy", numpy.__version__, jax.devices(), pictures.shape)
"""


def make_environment(python: str, folder: pathlib.Path) -> pathlib.Path:
    """A new environment with Colab's packages; returns its Python."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    env_python = folder / "bin" / "python"
    pip = [env_python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--prefer-binary", "-r", PACKAGES], check=True)
    subprocess.run([*pip, "--no-deps", *PLUGINS], check=True)
    return env_python


def first_code_cell(script: pathlib.Path) -> str:
    """The source of the first code cell of a notebook."""
    cells = jupytext.read(script).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def run_in_kernel(env_python: pathlib.Path, folder: pathlib.Path, *cells: str) -> bool:
    """Runs cells in one new kernel and prints what they print; whether the last one passed."""
    paths = []
    for number, cell in enumerate(cells):
        paths.append(folder / f"cell_{number}.py")
        paths[-1].write_text(cell, "utf-8")
    # A kernel of that environment, whatever others and whatever paths this machine has.
    command = [env_python, "-c", DRIVER, folder, *paths]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=env).returncode == 0


def unmet_requirements(env_python: pathlib.Path) -> list[str]:
    """The lines of ``pip check`` about corl_jax or what it requires directly."""
    names = "import importlib.metadata as m; print('\\n'.join(m.requires('corl_jax')))"
    output = subprocess.run([env_python, "-c", names], capture_output=True, text=True, check=True)
    required = {
        line.split(";")[0].split(">")[0].split("[")[0] for line in output.stdout.split("\n")
    }
    check = subprocess.run([env_python, "-m", "pip", "check"], capture_output=True, text=True)
    is_ours = {name.strip().lower().replace("_", "-") for name in required} | {"corl-jax"}
    lines = check.stdout.splitlines()
    return [line for line in lines if line.split(" ")[0].lower().replace("_", "-") in is_ours]


def main() -> int:
    """Prints what each cell prints and how long it takes; 0 if all of it works."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default="python3.13", help="Colab's version of Python")
    parser.add_argument(
        "--env", type=pathlib.Path, required=True, help="new folder, or one of before"
    )
    parser.add_argument("--wheel", type=pathlib.Path, help="install this instead of the checkout")
    args = parser.parse_args()

    started = time.time()
    env_python = args.env.resolve() / "bin" / "python"
    if not env_python.exists():
        make_environment(args.python, args.env)
        print(f"environment made in {time.time() - started:.0f} s", flush=True)

    scripts = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    passed = True
    with tempfile.TemporaryDirectory() as scratch:
        # Beside the checkout, or alone with a wheel, as a reader starts.
        folder = pathlib.Path(scratch) / "notebooks"
        folder.mkdir()
        if args.wheel is None:
            (folder.parent / "corl_jax").symlink_to(ROOT / "corl_jax")
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                (folder.parent / name).symlink_to(ROOT / name)
        else:
            shutil.copy(args.wheel, folder)
        for script in scripts:
            print(script.stem, flush=True)
            cell = first_code_cell(script)
            if not run_in_kernel(env_python, folder, "import numpy", cell):
                print("  a restarted runtime:", flush=True)
                passed &= run_in_kernel(env_python, folder, "import numpy", cell)
        print("the shipped policy draws", flush=True)
        passed &= run_in_kernel(env_python, folder, scripts and first_code_cell(scripts[0]), USE)
    unmet = unmet_requirements(env_python)
    print("pip check of what corl_jax requires:", "\n".join(unmet) or "nothing is missing")
    return 0 if passed and not unmet else 1


if __name__ == "__main__":
    sys.exit(main())
