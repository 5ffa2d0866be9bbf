"""What the fields of a config block mean and which values they may have, as text, from its class.

The help of programs and the reference of config keys are made from this, so that nothing is written
twice: meanings are in docstrings, bounds in annotations.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Annotated, Any

from corl_jax.core.checks.config_block import field_annotations

ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")
"""The first line of a field's text: one name or several, which share it."""


@dataclasses.dataclass(frozen=True)
class FieldDoc:
    """A field of a config block.

    Attributes:
      meaning: its text in the docstring, on one line, or "".
      values: those that it may have, such as ``one of float32, bfloat16``, or "" for all of its type.
    """

    meaning: str
    values: str


def field_docs(cls: type) -> dict[str, FieldDoc]:
    """The fields of a dataclass, in order, with those of the classes above it."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= attribute_texts(vars(base).get("__doc__") or "")
    return {
        name: FieldDoc(meanings.get(name, ""), allowed_values(annotation))
        for name, annotation in field_annotations(cls).items()
    }


def attribute_texts(docstring: str) -> dict[str, str]:
    """Name to text of the section ``Attributes:`` of a docstring; {} without one."""
    _, heading, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    if not heading:
        return {}

    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        # The section ends where the text is not indented any more.
        if line and not line.startswith(" "):
            break
        entry = ENTRY.fullmatch(line)
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def allowed_values(annotation: Any) -> str:
    """What the bounds of an annotation allow, in words."""
    if typing.get_origin(annotation) is not Annotated:
        return ""
    # Texts are the ends of errors.
    bounds = [part for part in typing.get_args(annotation)[1:] if not isinstance(part, str)]
    return ", ".join(str(bound).strip().removeprefix("of ") for bound in bounds)
