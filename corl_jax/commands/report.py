"""Writes report.html of a work directory again, from the files in it."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--workdir", required=True, help="folder of a run")


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from corl_jax.report.page import write_report

    print(write_report(args.workdir))
    return 0
