"""Bytes that a compiled program moves in main memory (HBM) and over links, loops included.

An instruction reads its operands from main memory and writes its result there. An array of which it
only uses a slice counts as the slice, one that it updates in place counts as the update, and one
that is in the chip's own memory counts as nothing.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping

from corl_jax.planner.hlo.collectives import ASYNC_DONE, COLLECTIVES, collectives
from corl_jax.planner.hlo.module import Computation, Instruction, Module
from corl_jax.sampling.decode_text import COMPACTED

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
"""Opcodes that move nothing."""

VIEWS = {"bitcast", "reshape", "get-tuple-element", "copy", "transpose", "convert"}
"""Opcodes inside a fusion that read what their user reads."""

SLICES = {"dynamic-slice", "slice", "gather"}
"""Opcodes that read as much of their first operand as they return."""

NOT_WRITTEN = {"parameter", *COLLECTIVES}
"""Opcodes of elements of a fusion's result that the fusion does not write: it returns a parameter
as it is, and what a collective receives was counted where the collective starts."""

MOVES = {"copy", "transpose", "slice", "dynamic-slice", "concatenate"}
"""Opcodes that move an array, or a part of one, and compute nothing."""

COPY_FUSION = {"copy", "parameter", "bitcast", "tuple", "transpose", "reshape"}
"""Opcodes in a fusion that does nothing but copy."""


@dataclasses.dataclass(frozen=True)
class DeviceTraffic:
    """Bytes that one device moves.

    Attributes:
      hbm_bytes: between the chip and its main memory.
      link_bytes: kind of collective to the bytes that cross the links.
    """

    hbm_bytes: float
    link_bytes: Mapping[str, float]

    def __add__(self, other: DeviceTraffic) -> DeviceTraffic:
        link_bytes = collections.Counter(self.link_bytes)
        link_bytes.update(other.link_bytes)
        return DeviceTraffic(self.hbm_bytes + other.hbm_bytes, dict(link_bytes))

    def times(self, runs: int) -> DeviceTraffic:
        """The traffic of ``runs`` runs."""
        link_bytes = {kind: size * runs for kind, size in self.link_bytes.items()}
        return DeviceTraffic(self.hbm_bytes * runs, link_bytes)


NO_TRAFFIC = DeviceTraffic(0.0, {})


def program_traffic(module: Module) -> DeviceTraffic:
    """Traffic of one run of a program."""
    return computation_traffic(module, module.entry)


def computation_traffic(module: Module, computation: Computation) -> DeviceTraffic:
    """Traffic of one run of a computation."""
    total = NO_TRAFFIC
    for instruction in computation.instructions.values():
        if instruction.opcode == "while":
            # A loop inside a loop is multiplied by both trip counts.
            body = module.loop_part(instruction, "body")
            total += computation_traffic(module, body).times(module.trip_count(instruction))
        elif instruction.opcode == "conditional" and COMPACTED in instruction.attributes:
            # At worst all rows of text go on together to the end.
            continue
        elif instruction.opcode in ("call", "conditional"):
            # Of the branches of a conditional, the one that moves the most counts.
            branches = [
                computation_traffic(module, module.computations[name])
                for name in instruction.called
            ]
            total += max(branches, key=lambda traffic: traffic.hbm_bytes)
        else:
            # Main memory, and links where the instruction is or contains a collective.
            total += DeviceTraffic(hbm_bytes(module, computation, instruction), {})
            for collective in collectives(module, computation, instruction):
                total += DeviceTraffic(0.0, {collective.kind: collective.link_bytes})

    return total


def loops(
    module: Module, computation: Computation | None = None
) -> Iterator[tuple[Instruction, Computation, int]]:
    """Outermost loops of a computation (by default the entry): instruction, body, trip count."""
    for instruction in (computation or module.entry).instructions.values():
        if instruction.opcode == "while":
            body = module.loop_part(instruction, "body")
            yield instruction, body, module.trip_count(instruction)
        elif instruction.opcode in ("call", "conditional"):
            for name in instruction.called:
                yield from loops(module, module.computations[name])


def count_copies(module: Module, computation: Computation, min_bytes: int) -> int:
    """Copies of at least ``min_bytes`` in main memory that a computation makes.

    A copy in a loop inside the computation counts once, however often the loop runs.
    """
    count = 0
    for instruction in computation.instructions.values():
        if instruction.opcode == "while":
            count += count_copies(module, module.loop_part(instruction, "body"), min_bytes)
        elif instruction.opcode in ("call", "conditional"):
            count += max(
                count_copies(module, module.computations[name], min_bytes)
                for name in instruction.called
            )
        elif instruction.opcode == "copy" or _is_copy_fusion(module, instruction):
            count += instruction.hbm_result_bytes >= min_bytes
    return count


def copied_bytes(module: Module, computation: Computation, min_bytes: int) -> float:
    """Bytes that kernels move which do nothing but copy arrays or slices of ``min_bytes`` or more.

    A slice that a kernel computes with is read where it lies and is none of them. Copies in a loop
    inside the computation count as often as the loop runs.
    """
    total = 0.0
    for instruction in computation.instructions.values():
        if instruction.opcode == "while":
            body = module.loop_part(instruction, "body")
            runs = module.trip_count(instruction)
            total += runs * copied_bytes(module, body, min_bytes)
        elif instruction.opcode in ("call", "conditional"):
            total += max(
                copied_bytes(module, module.computations[name], min_bytes)
                for name in instruction.called
            )
        elif only_moves(module, instruction) and instruction.hbm_result_bytes >= min_bytes:
            total += hbm_bytes(module, computation, instruction)
    return total


def hbm_bytes(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes that an instruction reads from main memory and writes there."""

    # The compiler keeps some operands in the chip's own memory; these count as 0.
    def operand_bytes(name: str) -> int:
        return computation.instructions[name].hbm_result_bytes

    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done"):
        return 0.0

    # An asynchronous copy counts what it reads, at its start; a collective writes as much.
    if opcode.endswith("-start") and opcode != "async-start":
        is_collective = any(collectives(module, computation, instruction))
        return (2.0 if is_collective else 1.0) * operand_bytes(instruction.operands[0])

    # Slices and updates in place read and write the slice or the update.
    if opcode in SLICES:
        return 2.0 * instruction.hbm_result_bytes
    if opcode == "dynamic-update-slice":
        return 2.0 * operand_bytes(instruction.operands[1])

    # A fusion reads and writes what the instructions inside do.
    if opcode in ("fusion", "async-start") and instruction.called:
        fusion = module.computations[instruction.called[0]]
        # The end of an all-gather that was counted where it starts.
        if ASYNC_DONE in fusion.root.attributes:
            return 0.0

        read_bytes = sum(
            min(operand_bytes(name), _fusion_read_bytes(module, fusion, parameter.name))
            for name, parameter in zip(instruction.operands, fusion.parameters, strict=False)
            if operand_bytes(name)
        )
        return float(
            read_bytes + min(instruction.hbm_result_bytes, _fusion_write_bytes(module, fusion))
        )

    # Everything else reads its operands and writes its result.
    return float(instruction.hbm_result_bytes + sum(map(operand_bytes, instruction.operands)))


def _fusion_read_bytes(module: Module, fusion: Computation, name: str) -> float:
    """Bytes of a parameter of a fusion, or of a view of it, that its instructions read."""
    total = 0.0

    for user in fusion.users[name]:
        # A slice or an update has the array first, then indices and, for an update, values.
        is_first_operand = user.operands[0] == name
        if user.opcode in SLICES and is_first_operand:
            total += user.result_bytes
        elif user.opcode == "tuple" or (user.opcode == "dynamic-update-slice" and is_first_operand):
            # Returned as it is, or with an update in place, which reads nothing.
            continue
        elif user.opcode in VIEWS and not user.root:
            # What is read of a view is what its own users read.
            total += _fusion_read_bytes(module, fusion, user.name)
        elif user.opcode == "fusion":
            # A fusion in the fusion, which may have the array as several operands. Where it only
            # gives the array another layout, its own users read what they need of that.
            nested = module.computations[user.called[0]]
            total += sum(
                _fusion_read_bytes(module, fusion, user.name)
                if _returns_view(nested, parameter.name) and not user.root
                else _fusion_read_bytes(module, nested, parameter.name)
                for operand, parameter in zip(user.operands, nested.parameters, strict=True)
                if operand == name
            )
        elif user.opcode == "reduce" and is_first_operand and not user.root:
            # Of a sum of which only slices are used, only their terms are read.
            share = _fusion_read_bytes(module, fusion, user.name) / user.result_bytes
            total += min(share, 1.0) * fusion.instructions[name].result_bytes
        else:
            # One user that reads all of the array is enough.
            return float(fusion.instructions[name].result_bytes)

    return total


def _returns_view(fusion: Computation, name: str) -> bool:
    """Whether a fusion's result is nothing but a view of its parameter."""
    instruction = fusion.root
    while instruction.opcode in VIEWS:
        if instruction.operands[0] == name:
            return True
        instruction = fusion.instructions[instruction.operands[0]]
    return False


def _fusion_write_bytes(module: Module, fusion: Computation) -> float:
    """Bytes of a fusion's result that it writes; of an update in place, the update."""

    def written_bytes(name: str) -> float:
        instruction = fusion.instructions[name]

        if instruction.opcode == "tuple":
            # A fusion with several results: each counts by itself.
            return sum(
                written_bytes(element)
                for element in instruction.operands
                if fusion.instructions[element].opcode not in NOT_WRITTEN
            )
        if instruction.opcode == "dynamic-update-slice":
            # The rest of the array stays as it is in memory.
            return float(fusion.instructions[instruction.operands[1]].result_bytes)
        if instruction.opcode in ("bitcast", "reshape"):
            return written_bytes(instruction.operands[0])
        if instruction.opcode == "fusion":
            return _fusion_write_bytes(module, module.computations[instruction.called[0]])

        # Results of other instructions are written completely.
        return float(instruction.result_bytes)

    return written_bytes(fusion.root.name)


def only_moves(module: Module, instruction: Instruction) -> bool:
    """Whether an instruction copies an array or a slice of one, and computes nothing with it."""
    if instruction.opcode != "fusion":
        return instruction.opcode in MOVES

    # Scalars, such as the place of a slice, may be computed beside.
    fusion = module.computations[instruction.called[0]]
    moved = [
        inner
        for inner in fusion.instructions.values()
        if inner.opcode != "parameter" and any(array.dims for array in inner.arrays)
    ]
    return any(inner.opcode in MOVES for inner in moved) and all(
        inner.opcode in MOVES or inner.opcode in VIEWS or inner.opcode in FREE for inner in moved
    )


def _is_copy_fusion(module: Module, instruction: Instruction) -> bool:
    """Whether an instruction is a fusion that does nothing but copy."""
    if instruction.opcode != "fusion":
        return False
    fusion = module.computations[instruction.called[0]]
    opcodes = {inner.opcode for inner in fusion.instructions.values()}
    return "copy" in opcodes and opcodes <= COPY_FUSION
