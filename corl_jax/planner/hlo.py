"""Reads the text of a compiled program. In: ``compiled.as_text()``. Out: computations with their instructions.

Only what the planner looks at is kept: types with their memory space, operands, and which computations are called.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "bf16": 16,
    "f16": 16,
    "s16": 16,
}
BITS |= {
    "u16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
    "c128": 128,
}

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations)=(?:\{([^}]*)\}|(%[\w.\-]+))"
)
_HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array type; ``memory`` 0 is the device's main memory (HBM), others are on the chip or the host."""

    dtype: str
    dims: tuple[int, ...]
    memory: int

    @property
    def bytes(self) -> int:
        """Size without padding."""
        return math.prod(self.dims) * BITS[self.dtype] // 8 if self.dtype in BITS else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: as printed.
      arrays: its result, a tuple's parts one after another.
      operands: names.
      called: names of computations.
      attributes: the rest of the line.
      root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    attributes: str
    root: bool


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction that gives the result."""
        return next(one for one in self.instructions.values() if one.root)

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """In order of their numbers."""
        found = [one for one in self.instructions.values() if one.opcode == "parameter"]
        return tuple(sorted(found, key=lambda one: int(one.operands[0])))

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Who reads an instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for operand in set(one.operands) & found.keys():
                found[operand].append(one)
        return {name: tuple(users) for name, users in found.items()}


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: Mapping[str, Computation]
    entry: Computation

    def part(self, loop: Instruction, name: str) -> Computation:
        """The ``condition`` or the ``body`` of a ``while``."""
        found = re.search(rf"\b{name}=%([\w.\-]+)", loop.attributes)
        assert found, loop.name
        return self.computations[found.group(1)]

    def trips(self, loop: Instruction) -> int:
        """How often a ``while`` runs at most: the constant that its condition compares its counter with, by its stride.

        Raises:
          ValueError: the condition compares with no constant.
        """
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if found:
            return int(found.group(1))
        limits = list(self._limits(self.part(loop, "condition")))
        if not limits:
            raise ValueError(f"the loop {loop.name} compares its counter with no constant")
        return -(-max(limits) // self._stride(loop))

    def _stride(self, loop: Instruction) -> int:
        """By how much a turn moves the counter: where XLA takes a product of spread factors window by window, a turn
        takes two. Its condition is then a plain comparison; any other loop is one of ours, which count by one."""
        condition, body = self.part(loop, "condition"), self.part(loop, "body")
        counter = condition.instructions.get(condition.root.operands[0])
        place = re.search(r"\bindex=(\d+)", counter.attributes) if counter else None
        if place is None or body.root.opcode != "tuple":
            return 1
        moved = body.instructions[body.root.operands[int(place.group(1))]]
        steps = (
            [_number(body.instructions[name]) for name in moved.operands]
            if moved.opcode == "add"
            else []
        )
        return max(step for step in (1, *steps) if step)

    def _limits(self, at: Computation) -> Iterator[int]:
        for one in at.instructions.values():
            number = _number(one)
            if number is not None:
                yield number
            for name in one.called:
                yield from self._limits(self.computations[name])


def parse(text: str) -> Module:
    """The program of an ``as_text()``."""
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", dict[str, Instruction]()
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name, lines = head.group(2), {}
            entry = name if head.group(1) else entry
        elif line.startswith("}") and name:
            computations[name], name = Computation(name, lines), ""
        elif name and " = " in line:
            one = _instruction(line)
            lines[one.name] = one
    return Module(computations, computations[entry])


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    root, name = left.startswith("ROOT "), left.removeprefix("ROOT ").removeprefix("%")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    arrays = tuple(_array(*found.groups()) for found in _ARRAY.finditer(right[:end]))
    rest = right[end:].strip()
    start = rest.index("(")
    stop = _closing(rest, start)
    opcode, inside, attributes = rest[:start], rest[start + 1 : stop], rest[stop + 1 :]
    operands = tuple(_NAME.findall(inside)) if "%" in inside else (inside,) if inside else ()
    called = tuple(
        name for found in _CALLED.finditer(attributes) for name in _NAME.findall(found.group())
    )
    return Instruction(name, opcode, arrays, operands, called, attributes, root)


def _number(one: Instruction) -> int | None:
    """The value of a constant that counts."""
    if one.opcode != "constant" or not one.operands or one.arrays[0].dtype not in ("s32", "u32"):
        return None
    return int(one.operands[0]) if one.operands[0].isdecimal() else None


def _array(dtype: str, dims: str, layout: str | None) -> Array:
    sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
    space = re.search(r"S\((\d+)\)", layout or "")
    return Array(dtype, sizes, int(space.group(1)) if space else 0)


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"no closing bracket in {text[start : start + 60]!r}")
