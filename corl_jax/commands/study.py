"""Runs a study of configs/studies.py, what is missing of it, and writes its table and plots."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import pathlib
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json, write_whole

if TYPE_CHECKING:
    from corl_jax.studies.comparison import Job, Study

FILE = "configs/studies.py"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("name", help=f"a study in {FILE}")
    parser.add_argument(
        "--file", type=pathlib.Path, default=pathlib.Path(FILE), help=f"default: {FILE}"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder of the study (default: runs/studies/NAME)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default: 3)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="config.KEY=VALUE", help="for every training"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands that are left, run nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Runs leg after leg; the same command goes on where it stopped. Page and table are written after every arm."""
    from tqdm import tqdm

    from corl_jax.studies.comparison import jobs

    study, out = load(args.file, args.name), args.out or pathlib.Path("runs/studies") / args.name
    if args.seeds < 1:
        raise UserError(f"--seeds={args.seeds} is no number of seeds; expected 1 or more")
    if wrong := [one for one in args.set if not one.startswith("config.") or "=" not in one]:
        raise UserError(
            f"--set {wrong[0]!r} is no change to a config; expected for example --set config.steps=20"
        )
    every = list(jobs(study, range(args.seeds), out, args.set))
    if args.dry_run:
        for job in every:
            if not job.done:
                print("python -m", *job.arguments)
        return 0
    finished = []
    with tqdm(every, unit="leg", ascii=True, file=sys.stderr) as bar:
        for job in bar:
            bar.set_description(f"{job.arm}, seed {job.seed}, {job.leg.name}")
            if not job.done:
                _call(job)
            finished.append(job)
            if job.leg is study.arms[job.arm][-1]:
                write(args.name, study, finished, out)
    print((out / "study.md").read_text("utf-8"))
    print(out / "study.html")
    return 0


def load(file: pathlib.Path, name: str) -> Study:
    """A study by name.

    Raises:
      UserError: no such file or study.
    """
    if not file.is_file():
        raise UserError(
            f"{str(file)!r} is not there; run this in the folder of the project, or say --file"
        )
    studies = runpy.run_path(str(file))["STUDIES"]
    if name not in studies:
        raise UserError(f"unknown study {name!r}; expected one of {', '.join(studies)}")
    return studies[name]


def _call(job: Job) -> None:
    """Runs one leg in a process of its own; what it prints goes into a file beside its folder.

    Raises:
      UserError: it failed; the study goes on from there when it is called again.
    """
    job.out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with job.log.open("a", encoding="utf-8") as lines:
        code = subprocess.run(
            [sys.executable, "-m", *job.arguments], stdout=lines, stderr=lines, check=False
        ).returncode
    if code:
        said = job.log.read_text("utf-8").strip().splitlines()[-1:]
        where = f"{job.arm}, seed {job.seed}, {job.leg.name}"
        raise UserError(f"{where} ended with {code}: {' '.join(said)}; see {job.log}")
    job.finish(time.perf_counter() - start)


def write(name: str, study: Study, finished: Sequence[Job], out: pathlib.Path) -> None:
    """``study.md``, ``study.json``, ``study.svg`` and ``study.html`` of what is finished so far."""
    from corl_jax.core import provenance
    from corl_jax.studies.comparison import markdown, table
    from corl_jax.studies.study_page import page, picture

    cells = table(study, finished)
    about = f"{provenance.machine()}; {datetime.date.today()}; corl study {name}"
    plain = {
        arm: {metric: dataclasses.asdict(cell) for metric, cell in row.items()}
        for arm, row in cells.items()
    }
    write_json(out / "study.json", {"about": about, "cells": plain})
    write_whole(out / "study.md", f"{study.question}\n\n{markdown(study, cells)}\n\n{about}\n")
    write_whole(out / "study.svg", picture(name, study, cells))
    write_whole(out / "study.html", page(name, study, cells, finished, about))
