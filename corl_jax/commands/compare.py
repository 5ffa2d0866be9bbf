"""Compares policies on a suite: paired differences with intervals, a page, and JSON."""

from __future__ import annotations

import argparse
import pathlib
import string

from corl_jax.commands import evaluate
from corl_jax.commands.common import check_file, number, path_flag
from corl_jax.core.checks.config_block import PositiveInt
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json

# Repeated from ``suites.results``, which help must not wait for.
RESULTS = "results.json"
# Each policy has a letter, and columns of more would be unreadable.
MOST_FOLDERS = 8


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "folders",
        type=path_flag,
        nargs="+",
        metavar="FOLDER",
        help="folders of results of one suite, or with --suite policies; the others are compared "
        "with the first",
    )
    parser.add_argument("--suite", help="evaluates those that are policies, see corl evaluate")
    parser.add_argument("--data", type=path_flag, help="of the suite, see corl evaluate")
    parser.add_argument("--n", type=number(PositiveInt), help="records of the suite")
    parser.add_argument(
        "--results",
        type=path_flag,
        help="folder for results of policies, one in it for each (default: beside --out)",
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
    from corl_jax.suites.benchmarks import benchmarks
    from corl_jax.suites.comparing.comparison import compare_results
    from corl_jax.suites.results import read_results

    folders = [_results_folder(folder, number, args) for number, folder in enumerate(args.folders)]
    results = [read_results(folder) for folder in folders]
    suite = results[0].suite
    aggregates = benchmarks[suite].aggregates if suite in benchmarks else {}
    comparison = compare_results(results, aggregates)
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


def _results_folder(folder: pathlib.Path, place: int, args: argparse.Namespace) -> pathlib.Path:
    """The folder itself, or the new one in which the policy ``folder`` is evaluated.

    Raises:
      UserError: as ``corl evaluate``.
    """
    # A folder of results, or without --suite one that is refused with its name.
    if args.suite is None or (folder / RESULTS).is_file():
        return folder
    parent = args.results or args.out.with_name(f"{args.out.stem}_results")
    letter = string.ascii_lowercase[place]
    out = parent / f"{letter}_{folder.name or 'policy'}"

    flags = ["--policy", str(folder), "--suite", args.suite, "--out", str(out)]
    flags += ["--data", str(args.data)] if args.data is not None else []
    flags += ["--n", str(args.n)] if args.n is not None else []
    parser = argparse.ArgumentParser(prog="corl evaluate")
    evaluate.add_flags(parser)
    evaluate.run(parser.parse_args(flags))
    return out
