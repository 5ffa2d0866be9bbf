"""Times decoding, training steps, their scaling, and attention kernels on this machine."""

from __future__ import annotations

import argparse
import pathlib
import sys

from corl_jax.commands import bench_decode, bench_kernels, bench_scaling, bench_step
from corl_jax.commands.common import check_file
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

KINDS = {
    "decode": bench_decode,
    "step": bench_step,
    "scaling": bench_scaling,
    "kernels": bench_kernels,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A command of its own for each kind."""
    kinds = parser.add_subparsers(required=True, metavar="what", dest="what")
    for name, kind in KINDS.items():
        summary = (kind.__doc__ or "").partition("\n")[0]
        one = kinds.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        kind.add_flags(one)
        one.add_argument("--json", type=pathlib.Path, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table; progress goes to stderr."""
    for name in {"repeats", "prompts", "group"} & vars(args).keys():
        value = vars(args)[name]
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} is out of range; expected 1 or more")
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    from corl_jax.core import provenance

    _fresh_compilation()
    value = KINDS[args.what].measure(args, lambda line: print(line, file=sys.stderr, flush=True))
    print(provenance.machine())
    if args.json is not None:
        others = ("torch", "transformers") if value["against"] == "transformers" else ()
        versions = provenance.versions() | provenance.versions_of(*others)
        write_json(args.json, value | {"device": provenance.machine(), "versions": versions})
    return 0


def _fresh_compilation() -> None:
    """Has everything compiled anew, so that the seconds are those of a first run."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
