"""Bytes that a compiled program moves, loops multiplied by their trips. In: a parsed program. Out: ``Traffic``.

An instruction reads its operands from main memory and writes its result there. What it merely slices counts as the
slice, what it updates in place as the update, and what lies in the chip's own memory as nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import operator
from collections.abc import Iterator, Mapping

from corl_jax.planner.hlo import Computation, Instruction, Module
from corl_jax.planner.hlo_collectives import COLLECTIVES, FINISHED, exchanges

FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "iota",
}
VIEWS = {"bitcast", "reshape", "get-tuple-element", "copy", "transpose", "convert"}
UNTOUCHED = {"parameter", *COLLECTIVES}
"""Parts of a fusion's result that it hands on as they came, or whose arrival was counted where their exchange began."""
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one device. ``collectives``: bytes that cross the links, by kind."""

    bytes: float
    collectives: Mapping[str, float]

    def __add__(self, other: Traffic) -> Traffic:
        both = collections.Counter(self.collectives)
        both.update(other.collectives)
        return Traffic(self.bytes + other.bytes, dict(both))

    def times(self, trips: int) -> Traffic:
        """The same ``trips`` times."""
        return Traffic(
            self.bytes * trips, {kind: size * trips for kind, size in self.collectives.items()}
        )


def of_program(module: Module) -> Traffic:
    """All that one call moves."""
    return of_computation(module, module.entry)


def of_computation(module: Module, at: Computation) -> Traffic:
    """All that one run of a computation moves."""
    total = Traffic(0.0, {})
    for one in at.instructions.values():
        if one.opcode == "while":
            total += of_computation(module, module.part(one, "body")).times(module.trips(one))
        elif one.opcode in ("call", "conditional"):
            total += max(
                (of_computation(module, module.computations[name]) for name in one.called),
                key=operator.attrgetter("bytes"),
            )
        else:
            total += Traffic(moved(module, at, one), {})
            for exchange in exchanges(module, at, one):
                total += Traffic(0.0, {exchange.kind: exchange.sent})
    return total


def loops(
    module: Module, at: Computation | None = None
) -> Iterator[tuple[Instruction, Computation, int]]:
    """The loops of a computation (the entry by default): instruction, body, trips."""
    for one in (at or module.entry).instructions.values():
        if one.opcode == "while":
            yield one, module.part(one, "body"), module.trips(one)
        elif one.opcode in ("call", "conditional"):
            for name in one.called:
                yield from loops(module, module.computations[name])


def copies(module: Module, at: Computation, least: int) -> int:
    """Copies, in main memory, of ``least`` bytes or more that a computation and the loops in it make, each once."""
    found = 0
    for one in at.instructions.values():
        if one.opcode == "while":
            found += copies(module, module.part(one, "body"), least)
        elif one.opcode == "copy" or (one.opcode == "fusion" and _only_copies(module, one)):
            found += sum(array.bytes for array in one.arrays if array.memory == 0) >= least
    return found


def moved(module: Module, at: Computation, one: Instruction) -> float:
    """Bytes between an instruction and main memory."""
    if one.opcode in FREE or one.opcode.endswith("-done"):
        return 0.0
    if one.opcode.endswith("-start") and one.opcode != "async-start":
        return (2.0 if any(exchanges(module, at, one)) else 1.0) * _hbm(at, one.operands[0])
    if one.opcode in SLICES:
        return 2.0 * sum(array.bytes for array in one.arrays if array.memory == 0)
    if one.opcode == "dynamic-update-slice":
        return 2.0 * _hbm(at, one.operands[1])
    written = sum(array.bytes for array in one.arrays if array.memory == 0)
    if one.opcode in ("fusion", "async-start") and one.called:
        inner = module.computations[one.called[0]]
        if FINISHED in inner.root.attributes:
            return 0.0
        read = sum(
            min(_hbm(at, name), _read(module, inner, parameter.name))
            for name, parameter in zip(one.operands, inner.parameters, strict=False)
            if _hbm(at, name)
        )
        return float(read + min(written, _written(module, inner)))
    return float(written + sum(_hbm(at, name) for name in one.operands))


def _hbm(at: Computation, name: str) -> int:
    one = at.instructions[name]
    return sum(array.bytes for array in one.arrays if array.memory == 0)


def _read(module: Module, inner: Computation, name: str) -> float:
    """Bytes of a fusion's parameter that its instructions look at."""
    total = 0.0
    for user in inner.users[name]:
        if user.opcode in SLICES and user.operands[0] == name:
            total += sum(array.bytes for array in user.arrays)
        elif user.opcode == "tuple" or (
            user.opcode == "dynamic-update-slice" and user.operands[0] == name
        ):
            continue  # handed on as it is, or but for the update
        elif user.opcode in VIEWS and not user.root:
            total += _read(module, inner, user.name)
        elif user.opcode == "fusion":
            nested = module.computations[user.called[0]]
            total += sum(
                _read(module, nested, parameter.name)
                for operand, parameter in zip(user.operands, nested.parameters, strict=True)
                if operand == name
            )
        else:
            return float(sum(array.bytes for array in inner.instructions[name].arrays))
    return total


def _written(module: Module, inner: Computation) -> float:
    """Bytes that a fusion's result changes; a result that is updated in place counts as the update."""

    def of(name: str) -> float:
        one = inner.instructions[name]
        if one.opcode == "tuple":
            return sum(
                of(part)
                for part in one.operands
                if inner.instructions[part].opcode not in UNTOUCHED
            )
        if one.opcode == "dynamic-update-slice":
            return float(sum(array.bytes for array in inner.instructions[one.operands[1]].arrays))
        if one.opcode in ("bitcast", "reshape"):
            return of(one.operands[0])
        if one.opcode == "fusion":
            return _written(module, module.computations[one.called[0]])
        return float(sum(array.bytes for array in one.arrays))

    return of(inner.root.name)


def _only_copies(module: Module, one: Instruction) -> bool:
    inside = {inner.opcode for inner in module.computations[one.called[0]].instructions.values()}
    return "copy" in inside and inside <= {
        "copy",
        "parameter",
        "bitcast",
        "tuple",
        "transpose",
        "reshape",
    }
