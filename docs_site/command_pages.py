"""The page of all commands, made from the parsers that read their flags."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator

from corl_jax import main
from corl_jax.commands.cli import make_parser

INTRODUCTION = """\
`corl COMMAND --help` prints the same. Bad input is one line on stderr and exit code 2, before
anything is written.
"""


def commands_page() -> str:
    """Every command with its flags, and the flags of training."""
    lines = ["# Commands", "", INTRODUCTION, *training_lines()]
    for name, parser in subcommands(make_parser()):
        lines += [f"## corl {name}", "", *command_lines(f"corl {name}", parser), ""]
    return "\n".join(lines)


def training_lines() -> Iterator[str]:
    """``corl_jax.main`` as its own help has it."""
    yield "## python -m corl_jax.main"
    yield ""
    yield "```text"
    yield inspect.cleandoc(main.__doc__ or "")
    yield "```"
    yield ""


def subcommands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser by name."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [pair for group in groups for pair in group.choices.items()]


def command_lines(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """What a command does, how it is called, and its flags; then those of commands below it."""
    yield parser.description or ""
    yield ""
    below = subcommands(parser)
    if not below:
        usage = parser.format_usage().removeprefix("usage: ").strip()
        yield f"```text\n{usage}\n```"
        yield ""
    for action in parser._actions:
        is_hidden = action.help == argparse.SUPPRESS or "--help" in action.option_strings
        if not is_hidden and not isinstance(action, argparse._SubParsersAction):
            yield from flag_lines(action, parser)
    for word, command in below:
        yield f"### {name} {word}"
        yield ""
        yield from command_lines(f"{name} {word}", command)


def flag_lines(action: argparse.Action, parser: argparse.ArgumentParser) -> Iterator[str]:
    """A flag as an entry of a list of definitions."""
    formatter = parser._get_formatter()
    yield f"`{formatter._format_action_invocation(action)}`"
    text = formatter._expand_help(action) if action.help else ""
    notes = [
        "required" if action.required and action.option_strings else "",
        f"default `{action.default}`" if has_default(action) else "",
    ]
    yield f":   {'; '.join(filter(None, [text, *notes]))}"
    yield ""


def has_default(action: argparse.Action) -> bool:
    """Whether a flag has a default that its help should say and does not."""
    is_said = "default" in (action.help or "")
    return action.default not in (None, False, "", argparse.SUPPRESS, []) and not is_said
