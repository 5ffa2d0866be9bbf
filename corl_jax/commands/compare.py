"""Compares results of one suite: paired differences with intervals, a page, and JSON."""

from __future__ import annotations

import argparse

from corl_jax.commands.common import check_file, path_flag
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json

# Each policy has a letter, and columns of more would be unreadable.
MOST_FOLDERS = 8


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "folders",
        type=path_flag,
        nargs="+",
        metavar="FOLDER",
        help="folders of results of one suite; the others are compared with the first",
    )
    parser.add_argument("--out", type=path_flag, required=True, help="the page, comparison.html")
    parser.add_argument("--json", type=path_flag, help="the same numbers as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace these files")


def run(args: argparse.Namespace) -> int:
    """Reads the folders, prints a table, and writes the page and the numbers."""
    if not 2 <= len(args.folders) <= MOST_FOLDERS:
        raise UserError(
            f"corl compare must have 2 to {MOST_FOLDERS} folders; got {len(args.folders)}. "
            "Name folders that corl evaluate wrote"
        )
    check_file(args.out, "--out", args.overwrite)
    if args.json is not None:
        check_file(args.json, "--json", args.overwrite)
        if args.json.resolve() == args.out.resolve():
            raise UserError(f"--json must be another file than --out; got {str(args.json)!r} twice")

    # Imported after the checks, so that help and errors are quick.
    from corl_jax.core.checks.paths import make_folder
    from corl_jax.report.comparison_page import make_labels, render_comparison
    from corl_jax.report.comparison_tables import format_verdict
    from corl_jax.suites.comparison import compare_results
    from corl_jax.suites.results import read_results

    comparison = compare_results([read_results(folder) for folder in args.folders])
    # A picture that cannot be read is an error before anything is written.
    page = render_comparison(comparison)
    make_folder(args.out.parent, "the folder of --out")
    write_atomically(args.out, page)
    if args.json is not None:
        write_json(args.json, comparison.to_json())

    labels = make_labels(comparison.results)
    for row in (*comparison.differences, *comparison.categories):
        name = f"{row.metric}, {row.category}" if row.category else row.metric
        print(f"{name}: {format_verdict(row, labels)}")
    if comparison.categories:
        print("Categories: claims are corrected for the number of categories (Holm).")
    print(args.out)
    return 0
