"""Every key of every config has a meaning, read from the docstring of its dataclass."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest

from corl_jax.core.checks.config_block import Interval, OneOf, config_block
from corl_jax.core.checks.field_docs import FieldDoc, attribute_texts, field_docs
from corl_jax.core.config_files import package_configs
from corl_jax.main import main, parse_command_line
from corl_jax.stages.config_keys import config_keys, describe_keys


@config_block
class Above:
    """A block.

    Attributes:
      size, side: in pixels,
        of both.
    """

    size: Annotated[int, Interval(ge=1)] = 1
    side: int = 2


@config_block
class Below(Above):
    """A block with more.

    Attributes:
      side: another meaning.
      name: of it: ``a`` or ``b``.

    Raises:
      FieldError: never.
    """

    name: Annotated[str, OneOf(("a", "b")), "Choose one"] = "a"


def test_fields_with_their_meanings_and_values():
    assert field_docs(Below) == {
        "size": FieldDoc("in pixels, of both.", "at least 1"),
        "side": FieldDoc("another meaning.", ""),
        "name": FieldDoc("of it: ``a`` or ``b``.", "one of a, b"),
    }
    assert attribute_texts("Nothing.") == attribute_texts("") == {}


@dataclasses.dataclass(frozen=True)
class Plain:
    size: int = 3


def test_a_class_without_a_docstring_has_fields_without_meanings():
    assert field_docs(Plain) == {"size": FieldDoc("", "")}


@pytest.mark.parametrize("name", package_configs())
def test_every_key_has_a_meaning(name):
    config, _, _ = parse_command_line(["main", f"--config={name}"])
    keys = list(config_keys(config))
    assert len({key.key for key in keys}) == len(keys) > 40
    assert [key.key for key in keys if not key.doc.meaning] == []


def test_keys_are_flags_that_can_be_given_again(capsys):
    """The text for the terminal: what it prints is a command line of the same config."""
    command = ["main", "--config", "configs/unified.py", "--config.seed=3"]
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--config.seed=3\n    of everything random" in out
    assert '--config.evals.guidance_scales="(1.0, 1.5, 2.0)"\n' in out
    assert "one of auto, float32, bfloat16" in out

    config, _, _ = parse_command_line(command)
    assert out.strip() == describe_keys(config)
    # A stage belongs to its file, and an empty block is none of ml_collections' flags.
    flags = [line for line in out.splitlines() if line.startswith("--config.")]
    flags = [flag.replace('"', "") for flag in flags if "stage" not in flag and "{}" not in flag]
    assert parse_command_line([*command[:3], *flags])[0] == config
