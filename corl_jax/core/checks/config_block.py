"""Blocks of a config: frozen dataclasses whose annotations say which values a field may have.

    @config_block
    class Example:
        steps: Annotated[int, Interval(ge=1)] = 100
        dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"

Every field is checked when an object is made, before the rules between fields in ``__post_init__``.
Command lines check their values by the same annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import struct
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from corl_jax.core.errors import UserError

C = TypeVar("C")

INT32_MAX = 2**31 - 1
"""Largest whole number, since counters in compiled programs are int32."""
FLOAT32_TINY = 2.0**-126
"""Smallest positive float32 that all backends compute with; some take smaller ones for 0."""


class FieldError(UserError):
    """A value that a field cannot have.

    Attributes:
      name: of the field, with keys and indices: ``b1``, ``task_weight.image``, ``weights[1]``.
      problem: what the value must be, and what it is.
    """

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem

    def of(self, prefix: str) -> UserError:
        """The same error with ``prefix`` before the name, such as ``config.optim.``."""
        return UserError(f"{prefix}{self}")


@dataclasses.dataclass(frozen=True)
class Interval:
    """Bounds of a number: at least ``ge``, above ``gt``, at most ``le``, below ``lt``."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def in_float32(self) -> Interval:
        """The interval with bounds as programs see them."""
        bounds = {name: bound for name, bound in vars(self).items() if bound is not None}
        return Interval(**{name: _rounded(bound, "f") for name, bound in bounds.items()})

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f" from {self.ge} to {self.le}"
        words = {"of at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return " and".join(f" {text} {bound}" for text, bound in words.items() if bound is not None)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Texts to choose from: a tuple, or the names of a table or registry."""

    names: Iterable[str]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value in tuple(self.names)

    def __str__(self) -> str:
        return "one of " + ", ".join(name or "''" for name in self.names)


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of a mapping; with ``exact`` all of them, else some."""

    names: tuple[str, ...]
    exact: bool = False

    def __contains__(self, value: Collection[str]) -> bool:
        unknown, missing = set(value) - set(self.names), set(self.names) - set(value)
        return not unknown and not (self.exact and missing)

    def __str__(self) -> str:
        share = "each" if self.exact else "some"
        return f"a block with {share} of {', '.join(self.names)}"


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A tuple with at least one element, or a text with at least one character."""

    def __contains__(self, value: Collection[object]) -> bool:
        return bool(value)

    def __str__(self) -> str:
        return "non-empty"


Count = Annotated[int, Interval(ge=0)]
PositiveInt = Annotated[int, Interval(ge=1)]
Share = Annotated[float, Interval(ge=0, le=1)]
Weight = Annotated[float, Interval(ge=0)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1), "Other seeds would repeat one of these"]
"""JAX makes keys of 32 bits of a seed."""


@dataclass_transform(frozen_default=True)
def config_block(cls: type[C]) -> type[C]:
    """Class decorator: a frozen dataclass that checks its fields by their annotations.

    Fields are bool, int, float, str, or tuples and mappings of these or of anything. ``Annotated``
    adds ``Interval``, ``OneOf``, ``Keys`` or ``NotEmpty``, and a sentence that errors end with.

    Raises:
      FieldError: when an object is made, for a field of another type or out of bounds. Numbers are
        finite and in the range of float32 or int32.
    """
    # The rules of the class, or those of the class above it.
    check_rules: Callable[[Any], None] = getattr(cls, "__post_init__", lambda self: None)
    annotated: Any = cls

    def check(self: Any) -> None:
        for name, annotation in field_annotations(annotated).items():
            check_value(name, vars(self)[name], annotation)
        check_rules(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


@functools.cache
def field_annotations(cls: type) -> Mapping[str, Any]:
    """Field to annotation, of the class and those above it."""
    # Read at first use: a class may name a registry that is defined below it.
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_value(name: str, value: object, annotation: Any) -> None:
    """Checks a value by an annotation.

    Args:
      name: for the error.
      annotation: as ``config_block`` accepts them.

    Raises:
      FieldError: see ``config_block``.
    """
    kind, *metadata = _parts(annotation)
    hints = [part for part in metadata if isinstance(part, str)]
    bounds = [part for part in metadata if not isinstance(part, str)]

    # A value of the wrong type must not reach the bounds.
    expected = _type_problem(value, kind, bounds)
    if expected is None:
        problems = (str(bound) for bound in bounds if value not in bound)
        expected = None if kind in (int, float) else next(problems, None)
    if expected is not None:
        raise FieldError(name, ". ".join([f"must be {expected}; got {show(value)}", *hints]))

    # Then the elements of tuples and mappings, each by the annotation of elements.
    container = typing.get_origin(kind)
    if container is tuple:
        for i, element in enumerate(typing.cast(tuple, value)):
            check_value(f"{name}[{i}]", element, typing.get_args(kind)[0])
    if container is Mapping:
        for key, element in typing.cast(Mapping, value).items():
            readable = key if key.isidentifier() else show(key, 40)
            check_value(f"{name}.{readable}", element, typing.get_args(kind)[1])


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Type and metadata of an annotation."""
    if typing.get_origin(annotation) is not Annotated:
        return (annotation,)
    return typing.get_args(annotation)


def _type_problem(value: object, kind: Any, bounds: list[Any]) -> str | None:
    """What a value of ``kind`` is, where ``value`` is something else; None where it fits."""
    if kind is Any:
        return None
    if kind is int:
        return _number_problem(value, numbers.Integral, "a whole number", bounds)
    if kind is float:
        return _number_problem(value, numbers.Real, "a finite number", bounds)
    if kind is bool:
        return None if isinstance(value, bool) else "True or False"
    if kind is str:
        # Choices say more than the type.
        choices = (str(bound) for bound in bounds if isinstance(bound, OneOf))
        return None if isinstance(value, str) else next(choices, "a text")

    container = typing.get_origin(kind)
    if container is tuple:
        element = _parts(typing.get_args(kind)[0])[0]
        example = "('a', 'b')" if element is str else "(1, 2)"
        return None if isinstance(value, tuple) else f"a tuple such as {example}, or ()"
    if container is Mapping:
        is_block = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return None if is_block else next(map(str, bounds), "a block of keys")
    raise TypeError(f"a config block cannot have a field of type {kind}")


def _number_problem(value: Any, kind: type, noun: str, bounds: list[Any]) -> str | None:
    """What a number must be, where ``value`` is none or is out of bounds; else None."""
    interval = bounds[0] if bounds else Interval()
    # Python counts True and False as whole numbers.
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number:
        return f"{noun}{interval}"
    if kind is numbers.Integral:
        # Counters of programs are int32; only an interval may allow more.
        if value in interval and value > INT32_MAX and interval.le is None:
            interval = dataclasses.replace(interval, le=INT32_MAX)
        if value in interval and value < -INT32_MAX and interval.ge is None:
            interval = dataclasses.replace(interval, ge=-INT32_MAX)
        return None if value in interval else f"{noun}{interval}"

    exact = _rounded(value, "d")
    if not math.isfinite(exact) or exact not in interval:
        return f"{noun}{interval}"

    # A number that is right by itself and not as a float32 would surprise in the programs.
    single = _rounded(value, "f")
    is_lost = not math.isfinite(single) or (abs(single) < FLOAT32_TINY and exact != 0)
    is_right = not is_lost and single in interval.in_float32()
    return None if is_right else f"{noun}{interval} in float32"


def _rounded(value: Any, format: str) -> float:
    """``value`` as float64 (``d``) or float32 (``f``); infinite where it is too large."""
    try:
        return struct.unpack(format, struct.pack(format, float(value)))[0]
    except OverflowError:
        return math.inf


def show(value: object, limit: int = 100) -> str:
    """``repr`` on one line of at most ``limit`` characters, for errors."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write whole numbers of thousands of digits
        text = f"a {type(value).__name__} with thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "..."
