"""Writes report.html of a work directory again, from the files in it."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, help="folder of a run")


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    # Imported here, so that help is quick.
    from corl_jax.report.page import write_report

    print(write_report(args.workdir))
    return 0
