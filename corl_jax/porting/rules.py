"""The table language: foreign tensor names and shapes to ours, and back.

A ``Rule`` pairs a pattern of foreign names with one of ours; ``{name}`` stands for a path segment that both share, and
``{layer}`` on the foreign side alone means that the layers are stacked along our first axis.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError

Transform = Callable[[np.ndarray], np.ndarray]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array differs between the two sides; ``outward`` undoes ``inward``."""

    inward: Transform
    outward: Transform


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
"""torch ``[out, in]``, ours ``[in, out]``."""
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""torch ``[O, I, h, w]``, ours ``[h, w, I, O]``."""
FIRST = Layout(lambda x: x[0], lambda x: x[None])
"""A leading axis of one that we do not have."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table: foreign pattern, our pattern, layout.

    Attributes:
      part: ``(i, n)`` when ours is the ``i``-th of ``n`` equal parts of the foreign tensor's first axis.
    """

    foreign: str
    ours: str
    layout: Layout = SAME
    part: tuple[int, int] = (0, 1)

    @property
    def stacked(self) -> bool:
        """Whether many foreign tensors make one of ours."""
        return "{layer}" in self.foreign and "{layer}" not in self.ours

    def inward(self, tensor: np.ndarray) -> np.ndarray:
        """A foreign tensor as ours, one layer of it where stacked."""
        i, n = self.part
        return self.layout.inward(np.split(tensor, n)[i])


@dataclasses.dataclass(frozen=True)
class Piece:
    """What fills (a part of) a foreign tensor: one of our paths, one layer of it or all."""

    path: str
    layer: int | None
    rule: Rule


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A foreign tensor: its shape, and the pieces that it is made of along its first axis."""

    shape: Shape
    pieces: tuple[Piece, ...]

    def outward(self, get: Callable[[Piece], np.ndarray]) -> np.ndarray:
        """The foreign tensor from its pieces in our layout."""
        parts = [piece.rule.layout.outward(get(piece)) for piece in self.pieces]
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def plan(leaves: Mapping[str, Shape], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Every foreign tensor of a model and what it is made of.

    Args:
      leaves: shapes of our parameters by path.
      rules: the table.

    Raises:
      ValueError: one of our parameters has no rule, or a fused tensor lacks a part; the table is incomplete.
    """
    table = [(_regex(rule.ours), rule) for rule in rules]
    shapes: dict[str, Shape] = {}
    pieces: dict[str, dict[int, Piece]] = {}
    for path, shape in leaves.items():
        found = [(match, rule) for pattern, rule in table if (match := pattern.fullmatch(path))]
        if not found:
            raise ValueError(f"no porting rule for our parameter {path!r}")
        match, rule = found[0]
        one = shape[1:] if rule.stacked else shape
        outside = rule.layout.outward(np.broadcast_to(np.float32(0), one)).shape
        layers = range(shape[0]) if rule.stacked else [None]
        for layer in layers:
            given = match.groupdict() | ({} if layer is None else {"layer": layer})
            name = rule.foreign.format(**given)
            shapes[name] = (outside[0] * rule.part[1], *outside[1:])
            pieces.setdefault(name, {})[rule.part[0]] = Piece(path, layer, rule)
    for name, parts in pieces.items():
        if sorted(parts) != list(range(parts[min(parts)].rule.part[1])):
            raise ValueError(f"the table fills only the parts {sorted(parts)} of {name!r}")
    return {
        name: Tensor(shapes[name], tuple(parts[i] for i in sorted(parts)))
        for name, parts in pieces.items()
    }


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    body = "".join(
        f"(?P<{part}>[^./]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
    return re.compile(body)


def check_names(
    wanted: Mapping[str, Shape], found: Mapping[str, Shape], unused: Sequence[str], where: str
) -> None:
    """One error that lists everything missing, extra or of another shape.

    Args:
      wanted: foreign name to the shape that the model needs.
      found: foreign name to the shape in the files.
      unused: patterns of names that are knowingly left alone; ``*`` crosses dots.
      where: names the folder in the error.
    """
    missing = sorted(wanted.keys() - found.keys())
    extra = [
        name for name in sorted(found.keys() - wanted.keys()) if not knowingly_unused(name, unused)
    ]
    other = sorted(n for n in wanted.keys() & found.keys() if tuple(wanted[n]) != tuple(found[n]))
    problems = []
    if missing:
        problems.append(f"missing: {_some(missing)}")
    if extra:
        problems.append(f"not used: {_some(extra)}")
    if other:
        problems.append(
            f"of another shape: {_some(f'{n} {found[n]} instead of {wanted[n]}' for n in other)}"
        )
    if problems:
        raise UserError(
            f"the weights in {where!r} do not fit its config.json ({'; '.join(problems)})"
        )


def knowingly_unused(name: str, unused: Sequence[str]) -> bool:
    """Whether ``name`` is in the table of what is left alone."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in unused)


def parameters(tensors: Mapping[str, Tensor]) -> int:
    """Number of parameters."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def _some(names: Iterable[str]) -> str:
    """All ``names``; those that differ in their first number alone are told as one, ``layers.[0-23].norm``."""
    alike: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?\.)(\d+)(\..*)", name)
        head, number, tail = found.groups() if found else (name, -1, "")
        alike.setdefault((head, tail), []).append(int(number))
    return ", ".join(f"{head}{_ranges(numbers)}{tail}" for (head, tail), numbers in alike.items())


def _ranges(numbers: list[int]) -> str:
    """``[0-2,5]`` of 0, 1, 2, 5; one number as itself; nothing for -1."""
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return "" if ordered[0] < 0 else str(ordered[0])
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return f"[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)}]"
