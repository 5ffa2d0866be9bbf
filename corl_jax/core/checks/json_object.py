"""Typed values of a JSON object: errors name the file, the path of keys, and what must be there."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

from corl_jax.core.checks.json_reader import ADVICE, Key, read_json, show_path, show_value
from corl_jax.core.errors import UserError

T = TypeVar("T")

LARGEST_INTEGER = 2**63 - 1
LARGEST_NUMBER = sys.float_info.max
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number"}


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file, or one inside of it.

    A method that gets a default returns it where the key is absent; without a default the key is
    required. A null is a value of another type, and so an error, but for the methods ``optional_``.

    Attributes:
      entries: keys and values.
      label: what errors call the file, e.g. ``config.json of 'folder'``.
      advice: next step, the end of error texts.
      path: keys from the root of the file to this object.
    """

    entries: Mapping[str, object]
    label: str
    advice: str = ADVICE
    path: tuple[Key, ...] = ()

    @classmethod
    def check(
        cls, value: object, label: str, advice: str = ADVICE, path: tuple[Key, ...] = ()
    ) -> JsonObject:
        """Wraps ``value``.

        Raises:
          UserError: it is no object.
        """
        if isinstance(value, dict):
            return cls(value, label, advice, path)
        where = f"{show_path(path)} in {label}" if path else label
        kind = "nothing" if value is None else KINDS.get(type(value), "a number")
        raise UserError(f"{where} must be a JSON object; got {kind}; {advice}")

    @classmethod
    def read(cls, path: pathlib.Path, label: str = "", advice: str = ADVICE) -> JsonObject:
        """Reads a file; ``label`` is its path by default.

        Raises:
          UserError: as ``read_json``, or the file holds no object.
        """
        return cls.check(read_json(path, advice), label or repr(str(path)), advice)

    def has(self, name: str) -> bool:
        """Whether the key is there and not null."""
        return self.entries.get(name) is not None

    def refuse(self, name: str, expectation: str) -> NoReturn:
        """Raises the UserError about the value of ``name``, which must be ``expectation``."""
        value = show_value(self.entries[name]) if name in self.entries else "nothing"
        raise UserError(
            f"{show_path((*self.path, name))} in {self.label} must be {expectation}; got {value}; "
            f"{self.advice}"
        )

    def require(self, name: str, value: object, default: object = None) -> None:
        """Refuses another value than ``value`` under ``name``; ``default`` counts where it is absent.

        Raises:
          UserError: another value, or one of another type: 1 and true are not equal here.
        """
        entry = self.entries.get(name, default)
        is_number = type(value) in (int, float) and type(entry) in (int, float)
        if entry != value or not (is_number or type(entry) is type(value)):
            self.refuse(name, show_value(value))

    def integer(
        self, name: str, default: int | None = None, *, low: int = 0, high: int = LARGEST_INTEGER
    ) -> int:
        """A whole number in ``low..high``."""
        expectation = f"a whole number{_range_text(low, high)}"
        return self._get(name, default, expectation, lambda value: _is_integer(value, low, high))

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        low: float = -LARGEST_NUMBER,
        high: float = LARGEST_NUMBER,
    ) -> float:
        """A number in ``low..high``."""
        expectation = f"a number{_range_text(low, high)}"
        return self._get(name, default, expectation, lambda value: _is_number(value, low, high))

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        return self._get(name, default, "a text", lambda value: isinstance(value, str))

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._get(name, default, "true or false", lambda value: isinstance(value, bool))

    def optional_integer(
        self, name: str, *, low: int = 0, high: int = LARGEST_INTEGER
    ) -> int | None:
        """A whole number in ``low..high``; None where the key is absent or null."""
        return self.integer(name, low=low, high=high) if self.has(name) else None

    def optional_number(self, name: str) -> float | None:
        """A number; None where the key is absent or null."""
        return self.number(name) if self.has(name) else None

    def optional_text(self, name: str) -> str | None:
        """A text; None where the key is absent or null."""
        return self.text(name) if self.has(name) else None

    def optional_block(self, name: str) -> JsonObject:
        """An object inside this one; an empty one where the key is absent or null."""
        value = self.entries[name] if self.has(name) else {}
        return JsonObject.check(value, self.label, self.advice, (*self.path, name))

    def block(self, name: str) -> JsonObject:
        """An object inside this one."""
        value = self.entries.get(name)
        return JsonObject.check(value, self.label, self.advice, (*self.path, name))

    def blocks(self, name: str) -> list[JsonObject]:
        """A list of objects."""
        items: list[object] = self._get(
            name, None, "a list of objects", lambda value: isinstance(value, list)
        )
        return [
            JsonObject.check(item, self.label, self.advice, (*self.path, name, i))
            for i, item in enumerate(items)
        ]

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""

        def is_valid(value: object) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        items: list[str] = self._get(name, None, "a list of texts", is_valid)
        return tuple(items)

    def integers(
        self, name: str, default: Sequence[int] | None = None, *, low: int, high: int, length: int
    ) -> tuple[int, ...]:
        """A list of 1 to ``length`` whole numbers in ``low..high``."""

        def is_valid(value: object) -> bool:
            is_list = isinstance(value, list) and 0 < len(value) <= length
            return is_list and all(_is_integer(item, low, high) for item in value)  # type: ignore[attr-defined]

        expectation = f"a list of 1 to {length} whole numbers{_range_text(low, high)}"
        return tuple(self._get(name, default, expectation, is_valid))

    def _get(
        self, name: str, default: T | None, expectation: str, is_valid: Callable[[object], bool]
    ) -> T:
        if name not in self.entries and default is not None:
            return default
        value = self.entries.get(name)
        if not is_valid(value):
            self.refuse(name, expectation)
        # ``is_valid`` has checked the type.
        return value  # type: ignore[return-value]


def _is_integer(value: object, low: int, high: int) -> bool:
    # ``type`` and not ``isinstance``, since True is an int as well.
    return type(value) is int and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def _range_text(low: float, high: float) -> str:
    """The bounds that are worth naming, as words."""
    if high in (LARGEST_INTEGER, LARGEST_NUMBER):
        return "" if low == -LARGEST_NUMBER else f" of at least {low}"
    return f" from {low} to {high}"
