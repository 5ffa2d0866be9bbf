"""Reads and checks a data set once, and writes what can be used as array records."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

from corl_jax.commands.common import check_folder, number, path_flag
from corl_jax.core.checks.config_block import Interval
from corl_jax.core.errors import UserError

if TYPE_CHECKING:
    from corl_jax.data.prepared.prepare import PreparedSplit

Processes = Annotated[int, Interval(ge=1, le=256)]
BadShare = Annotated[float, Interval(ge=0, le=1), "It is a share of the rows, such as 0.01"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("source", help="address of the data, as in config.data.source")
    parser.add_argument(
        "--out", type=path_flag, required=True, help="folder of the prepared set; a new one"
    )
    parser.add_argument(
        "--config",
        help="config of the run that the data is for, such as configs/unified.py: rows are checked "
        "by its tokenizer, widths and rewards (default: rows are checked by themselves)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="config.KEY=VALUE",
        dest="changes",
        help="changes to the config",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        dest="columns",
        help="column of the data that a field of the record is read from, such as question=problem; "
        "as config.data.columns",
    )
    parser.add_argument("--splits", default="train", help="such as train,test (default: train)")
    parser.add_argument(
        "--processes",
        type=number(Processes),
        help="that decode pictures (default: one for each core)",
    )
    parser.add_argument(
        "--max-bad",
        type=number(BadShare),
        default=0.01,
        help="share of the rows that may be rejected (default: 0.01)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints how many rows are kept, and the folder; a progress bar goes to stderr."""
    _check_out(args.out)
    splits = _read_splits(args.splits)
    if args.changes and not args.config:
        raise UserError(
            f"--set must come with the config that it changes; got {args.changes[0]!r} alone. Add "
            "--config"
        )

    from corl_jax.core.workers.pool import WorkerPool
    from corl_jax.data.mixing.templated_source import with_template
    from corl_jax.data.prepared.prepare import finish, partial_folder, prepare_splits
    from corl_jax.data.prepared.row_pass import RowPass
    from corl_jax.data.sources.addresses import open_source
    from corl_jax.stages.text_checks import TextChecks

    # The config decides what is checked; columns on the command line add to its own.
    columns = _read_columns(args.columns)
    config = _read_config(args, columns) if args.config else None
    checks = TextChecks.of_config(config) if config is not None else TextChecks()
    columns = config["data"]["columns"] if config is not None else columns
    template = config["data"]["template"] if config is not None else "as_is"
    sources = {
        split: with_template(open_source(args.source, split, columns), template) for split in splits
    }
    identity = {"source": args.source, "config": config, "columns": columns}

    workers = args.processes or os.cpu_count() or 1
    pool = WorkerPool(workers)
    try:
        prepared = prepare_splits(
            sources,
            lambda source: RowPass(source, checks.checks, checks.lengths, pool, workers),
            args.out,
            identity,
            args.max_bad,
        )
    finally:
        pool.close()
    _write_pages(partial_folder(args.out), prepared, args)
    finish(args.out, prepared, identity)

    for split in prepared:
        print(f"{split.name}: {split.kept} of {split.rows} rows")
    print(args.out)
    return 0


def _check_out(out: pathlib.Path) -> None:
    """Refuses an ``--out`` that has something in it."""
    check_folder(out, (), overwrite=False)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"--out must be a new or empty folder; {str(out)!r} has files. Choose another"
        )


def _read_splits(text: str) -> list[Any]:
    """The splits in ``--splits``."""
    from corl_jax.data.shapes.examples import Split

    splits, known = text.split(","), get_args(Split)
    if unknown := [split for split in splits if split not in known]:
        raise UserError(
            f"--splits must be some of {', '.join(known)}, separated by commas; got {unknown[0]!r}"
        )
    return list(dict.fromkeys(splits))


def _read_columns(texts: Sequence[str]) -> dict[str, str]:
    """Field of a record to column of the data, from ``--column``."""
    for text in texts:
        if not all(text.partition("=")):
            raise UserError(
                f"--column must be FIELD=COLUMN; got {text!r}. Write for example question=problem"
            )
    return {field: column for field, _, column in (text.partition("=") for text in texts)}


def _read_config(args: argparse.Namespace, columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The config of the run, for the data and the columns of the command line."""
    for change in args.changes:
        if not change.startswith("config.") or "=" not in change:
            raise UserError(
                f"--set must be config.KEY=VALUE; got {change!r}. "
                "Write for example config.rl.rollout.text_prompt_length=96"
            )

    from absl import flags

    from corl_jax.main import parse_command_line

    changes = [f"config.data.source={args.source}", *args.changes]
    changes += [f"config.data.columns.{field}={column}" for field, column in columns.items()]
    flags_of_config = [f"--{change}" for change in changes]
    config, _, _ = parse_command_line(["prepare", f"--config={args.config}", *flags_of_config])
    flags.FLAGS.mark_as_parsed()
    return config


def _write_pages(
    folder: pathlib.Path, splits: list[PreparedSplit], args: argparse.Namespace
) -> None:
    """Writes the page of statistics and the contact sheets."""
    from corl_jax.core.files import write_atomically
    from corl_jax.report.data_page import PAGE_FILE, SHEET_FILE, contact_sheet, render_data_page

    facts = {"source": args.source, "config": " ".join([args.config or "none", *args.changes])}
    write_atomically(folder / PAGE_FILE, render_data_page(splits, facts))
    for split in splits:
        sheet = contact_sheet(split)
        if sheet is not None:
            write_atomically(folder / SHEET_FILE.format(split=split.name), sheet)
