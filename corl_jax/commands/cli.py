"""The command ``corl``: reads the line, runs one command. Bad input ends with one line and exit code 2.

In: arguments. Out: an exit code. Libraries are loaded by the command that needs them, so that help is quick.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from corl_jax import __version__
from corl_jax.commands import (
    ask,
    bench,
    doctor,
    evaluate,
    export,
    inspect,
    merge,
    plan,
    report,
    sample,
    score,
    study,
    tokenize,
)
from corl_jax.core.errors import UserError

COMMANDS = (
    sample,
    ask,
    evaluate,
    score,
    report,
    doctor,
    inspect,
    tokenize,
    export,
    merge,
    plan,
    bench,
    study,
)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line too."""

    def error(self, message: str) -> NoReturn:
        """Refuses a command line."""
        raise UserError(f"{message}; see {self.prog} --help")


def parser() -> Parser:
    """All commands with their flags."""
    summary = "Use, measure and check policies that both draw and answer."
    out = Parser(prog="corl", description=summary, allow_abbrev=False)
    out.add_argument("--version", action="version", version=f"corl_jax {__version__}")
    commands = out.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_flags(one)
        one.set_defaults(run=command.run)
    return out


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    try:
        args = parser().parse_args(argv)
        return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
