"""Runs a study of configs/studies.py, what is missing of it, and writes its table and plots."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from corl_jax.commands.common import number, path_flag
from corl_jax.core.checks.config_block import Interval
from corl_jax.core.checks.paths import check_writable
from corl_jax.core.config_files import find_config, load_module
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json

if TYPE_CHECKING:
    from corl_jax.studies.comparison import CommandRun, Study

Seeds = Annotated[int, Interval(ge=1, le=100)]
# The shipped studies.
FILE = "configs/studies.py"
DEFINES = "STUDIES"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("name", help=f"a study in {FILE}")
    parser.add_argument("--file", default=FILE, help=f"default: {FILE}")
    parser.add_argument(
        "--out", type=path_flag, help="folder of the study (default: runs/studies/NAME)"
    )
    parser.add_argument(
        "--seeds", type=number(Seeds), default=3, help="seeds 0, 1, ... (default: 3)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="config.KEY=VALUE", help="for every training"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands that are left, run nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Runs command after command; the same call goes on where it stopped.

    Page and table are written after every arm.
    """
    # Imported here, so that help is quick.
    from tqdm import tqdm

    from corl_jax.studies.comparison import plan_runs

    study = load_study(args.file, args.name)
    out = args.out or pathlib.Path("runs/studies") / args.name

    check_writable(out, "--out")

    # A wrong setting would fail in the first training, after all that is planned before it.
    for setting in args.set:
        if not setting.startswith("config.") or "=" not in setting:
            raise UserError(
                f"--set must be config.KEY=VALUE, for example config.steps=20; got {setting!r}"
            )

    # What is done already is not run again.
    runs = list(plan_runs(study, range(args.seeds), out, args.set))
    if args.dry_run:
        for command_run in runs:
            if not command_run.done:
                print("python -m", *command_run.arguments)
        return 0

    finished: list[CommandRun] = []
    with tqdm(runs, unit="command", ascii=True, file=sys.stderr) as bar:
        for command_run in bar:
            bar.set_description(_describe(command_run))
            if not command_run.done:
                _run_command(command_run)
            finished.append(command_run)

            # The last command of an arm has left its evaluation.
            if command_run.command is study.arms[command_run.arm][-1]:
                write_results(args.name, study, finished, out)
    print((out / "study.md").read_text("utf-8"))
    print(out / "study.html")
    return 0


def load_study(file: str, name: str) -> Study:
    """A study by name.

    Args:
      file: see ``core.config_files.find_config``.
      name: of the study.

    Raises:
      UserError: no such file or study, or an error in the file.
    """
    studies = vars(load_module(find_config(file, "--file", DEFINES), "--file")).get(DEFINES)
    if studies is None:
        raise UserError(
            f"--file must be a file that defines {DEFINES}, a study by its name; {file!r} does not. "
            f"See {FILE} of the package"
        )
    if name not in studies:
        raise UserError(f"unknown study {name!r}; expected one of {', '.join(studies)}")
    return studies[name]


def write_results(
    name: str, study: Study, finished: Sequence[CommandRun], out: pathlib.Path
) -> None:
    """Writes ``study.json``, ``study.md``, ``study.svg`` and ``study.html``.

    Args:
      name: of the study.
      study: what is compared.
      finished: runs that are done so far.
      out: folder of the files.
    """
    from corl_jax.core import provenance
    from corl_jax.studies.comparison import make_table, render_markdown
    from corl_jax.studies.forgetting import forgetting_as_json, measure_forgetting
    from corl_jax.studies.forgetting_section import render_order
    from corl_jax.studies.study_page import render_study_page, render_study_svg
    from corl_jax.studies.verdicts import judge_claim

    table = make_table(study, finished)
    verdicts = judge_claim(study, table)
    about = f"{provenance.machine()}; {datetime.date.today()}; corl study {name}"

    # For programs: JSON. For people: Markdown, a plot and a page.
    cells = {
        arm: {metric: dataclasses.asdict(cell) for metric, cell in row.items()}
        for arm, row in table.items()
    }
    claim = [verdict._asdict() for verdict in verdicts]
    figures = measure_forgetting(study, table)
    order = {} if figures is None else {"order": forgetting_as_json(figures)}
    write_json(out / "study.json", {"about": about, "claim": claim, "cells": cells} | order)

    # The question, what became of the claim, the figures.
    lines = [study.question, "", study.claim, ""]
    lines += [f"* {it.outcome}: {it.expectation} ({it.figures or 'no runs'})" for it in verdicts]
    lines += ["", render_markdown(study, table), ""]
    if figures is not None:
        lines += [render_order(figures, table), ""]
    lines += [about, ""]
    write_atomically(out / "study.md", "\n".join(lines))
    write_atomically(out / "study.svg", render_study_svg(name, study, table))
    write_atomically(out / "study.html", render_study_page(name, study, table, finished, about))


def _run_command(command_run: CommandRun) -> None:
    """Runs a command in a process of its own, with its output in a file next to its folder.

    Raises:
      UserError: the command failed; the study goes on from there when it is called again.
    """
    # The command makes its folder by itself, and may refuse one that exists.
    command_run.folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with command_run.log.open("a", encoding="utf-8") as log:
        process = subprocess.run(
            [sys.executable, "-m", *command_run.arguments], stdout=log, stderr=log, check=False
        )

    # Errors of our commands are one line, which is the last one.
    if process.returncode:
        lines = command_run.log.read_text("utf-8", "replace").strip().splitlines()
        last_line = lines[-1] if lines else ""
        raise UserError(
            f"{_describe(command_run)} ended with {process.returncode}: {last_line}; "
            f"see {command_run.log}"
        )
    command_run.mark_done(time.perf_counter() - start)


def _describe(command_run: CommandRun) -> str:
    """Arm, seed and command on one line."""
    return f"{command_run.arm}, seed {command_run.seed}, {command_run.command.name}"
