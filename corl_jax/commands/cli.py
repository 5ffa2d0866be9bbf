"""The command ``corl``: reads the command line and runs one command.

Bad input ends with one line on stderr and exit code 2. Each command imports the libraries that it
needs when it runs, so that help is quick.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from corl_jax import __version__
from corl_jax.commands import (
    ask,
    bench,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    init,
    inspect,
    merge,
    plan,
    prepare,
    report,
    sample,
    score,
    study,
    tokenize,
)
from corl_jax.core.accelerators import leave_out_missing_accelerators
from corl_jax.core.errors import UserError
from corl_jax.core.processes.ending import run_program

# In the order of the help.
COMMANDS = (
    sample,
    ask,
    demo,
    evaluate,
    score,
    compare,
    report,
    doctor,
    init,
    check,
    inspect,
    tokenize,
    prepare,
    export,
    merge,
    plan,
    bench,
    study,
)


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors as UserError, so that they are one line."""

    def error(self, message: str) -> NoReturn:
        """Refuses a command line."""
        # What ``commands.common.number`` says of a flag becomes a sentence.
        message = re.sub(r"^argument (\S+): must", r"\1 must", message)
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser() -> Parser:
    """The parser of all commands with their flags."""
    summary = "Use, measure and check policies that both draw and answer."
    parser = Parser(prog="corl", description=summary, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"corl_jax {__version__}")

    # A command is a module: its name, the first line of its docstring, its flags, its function.
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        module.add_flags(command)
        # ``main`` calls what the command line has chosen.
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""

    # UserError is the only error a user is meant to read; others are bugs, with a traceback.
    def run_command() -> int:
        leave_out_missing_accelerators()
        args = make_parser().parse_args(argv)
        return args.run(args)

    return run_program(run_command)


if __name__ == "__main__":
    sys.exit(main())
