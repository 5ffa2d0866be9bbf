"""Parses the text of a compiled program (``compiled.as_text()``) into computations.

Only what the planner needs is kept: array types with their memory space, operands, and which
computations an instruction calls.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

BITS = {
    **dict.fromkeys(("s4", "u4"), 4),
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 8),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
"""Dtype to its bits. Other types, such as tokens, count as empty."""

# bf16[4,<=8]{1,0:T(8,128)S(1)}: dtype, sizes (``<=`` marks a bounded one) and layout.
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations)=(?:\{([^}]*)\}|(%[\w.\-]+))"
)
_COMPUTATION_END = re.compile(r"\}(,? *execution_thread=.*)?\s*$")
_COMPUTATION_HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array type.

    Attributes:
      dtype: as printed, a key of ``BITS`` or another type.
      dims: sizes of the axes.
      memory_space: 0 is the device's main memory (HBM); others are on the chip or on the host.
    """

    dtype: str
    dims: tuple[int, ...]
    memory_space: int

    @property
    def bytes(self) -> int:
        """Size without padding."""
        return math.prod(self.dims) * BITS[self.dtype] // 8 if self.dtype in BITS else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: as printed.
      arrays: the result; of a tuple, its arrays one after another.
      operands: names of instructions; the number of a parameter, the value of a constant.
      called: names of the computations that it runs.
      attributes: the rest of the line.
      root: whether this is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def result_bytes(self) -> int:
        """Size of the result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def hbm_result_bytes(self) -> int:
        """Size of the part of the result that is in main memory."""
        return sum(array.bytes for array in self.arrays if array.memory_space == 0)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the program: its instructions by name, in order."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(instruction for instruction in self.instructions.values() if instruction.root)

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """The parameters in the order of their numbers."""
        parameters = [
            instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        ]
        return tuple(sorted(parameters, key=lambda parameter: int(parameter.operands[0])))

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Name of an instruction to those that have it as an operand."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in set(instruction.operands) & users.keys():
                users[operand].append(instruction)
        return {name: tuple(instructions) for name, instructions in users.items()}


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the one that runs first."""

    computations: Mapping[str, Computation]
    entry: Computation

    def loop_part(self, loop: Instruction, part: str) -> Computation:
        """The ``condition`` or the ``body`` of a ``while``."""
        # As in ``while(%state), condition=%cond, body=%body``.
        match = re.search(rf"\b{part}=%([\w.\-]+)", loop.attributes)
        assert match, loop.name
        return self.computations[match.group(1)]

    def trip_count(self, loop: Instruction) -> int:
        """How often a ``while`` runs its body, at most.

        The compiler may have written the number down. Else it is the constant that the condition
        compares the counter with, divided by what an iteration adds to the counter.

        Raises:
          ValueError: the condition compares with no constant.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))

        # Where a condition has several constants, the largest one limits the counter.
        limits = list(self._constants(self.loop_part(loop, "condition")))
        if not limits:
            raise ValueError(
                f"the loop {loop.name} must compare its counter with a constant; it has none"
            )
        return -(-max(limits) // self._stride(loop))

    def _stride(self, loop: Instruction) -> int:
        """What an iteration adds to the counter.

        Where XLA computes a product of sharded factors window by window, an iteration computes two
        windows and adds 2; the condition of such a loop is a plain comparison. Every other loop is
        one of corl_jax, which count by one.
        """
        # The counter is an element of the loop's state; the condition says which.
        condition, body = self.loop_part(loop, "condition"), self.loop_part(loop, "body")
        counter = condition.instructions.get(condition.root.operands[0])
        index = re.search(r"\bindex=(\d+)", counter.attributes) if counter else None
        if index is None or body.root.opcode != "tuple":
            return 1

        # The next state has that element plus a constant.
        next_counter = body.instructions[body.root.operands[int(index.group(1))]]
        if next_counter.opcode != "add":
            return 1
        added = [_integer_constant(body.instructions[name]) for name in next_counter.operands]
        return max(step for step in (1, *added) if step)

    def _constants(self, computation: Computation) -> Iterator[int]:
        """Integer constants in a computation and in those that it calls."""
        # The comparison may be in a fusion that the condition calls.
        for instruction in computation.instructions.values():
            constant = _integer_constant(instruction)
            if constant is not None:
                yield constant
            for name in instruction.called:
                yield from self._constants(self.computations[name])


def parse(text: str) -> Module:
    """The program of an ``as_text()``."""
    computations: dict[str, Computation] = {}
    entry_name = ""

    # The computation of the current line; no name between computations.
    name, instructions = "", dict[str, Instruction]()
    for line in text.splitlines():
        head = _COMPUTATION_HEAD.match(line)
        if head:
            # A computation begins: ``%name (parameters) -> type {``.
            name, instructions = head.group(2), {}
            entry_name = name if head.group(1) else entry_name
        elif _COMPUTATION_END.match(line) and name:
            # It ends. Attributes of a kernel may have lines of their own, which begin with braces.
            computations[name] = Computation(name, instructions)
            name = ""
        elif name and line.startswith(" ") and " = " in line:
            instruction = _parse_instruction(line)
            instructions[instruction.name] = instruction

    return Module(computations, computations[entry_name])


def _parse_instruction(line: str) -> Instruction:
    """``[ROOT ]%name = TYPE opcode(operands), attributes``."""
    left, _, right = line.strip().partition(" = ")
    is_root, name = left.startswith("ROOT "), left.removeprefix("ROOT ").removeprefix("%")

    # The type ends at the first space, except that the type of a tuple has spaces in brackets.
    type_end = _closing_bracket(right, 0) + 1 if right.startswith("(") else right.index(" ")
    arrays = tuple(_parse_array(*match.groups()) for match in _ARRAY.finditer(right[:type_end]))

    call = right[type_end:].strip()
    start = call.index("(")
    stop = _closing_bracket(call, start)
    opcode, arguments, attributes = call[:start], call[start + 1 : stop], call[stop + 1 :]

    # Arguments that are not names are the number of a parameter or the value of a constant.
    names = tuple(_NAME.findall(arguments))
    operands = names if names or not arguments else (arguments,)

    # Attributes name the computations that a fusion, loop, call or conditional runs.
    called: list[str] = []
    for match in _CALLED.finditer(attributes):
        called += _NAME.findall(match.group())
    return Instruction(name, opcode, arrays, operands, tuple(called), attributes, is_root)


def _integer_constant(instruction: Instruction) -> int | None:
    """The value of a constant that can be a counter's limit or step; else None."""
    if instruction.opcode != "constant" or not instruction.operands:
        return None
    if instruction.arrays[0].dtype not in ("s32", "u32"):
        return None
    return int(instruction.operands[0]) if instruction.operands[0].isdecimal() else None


def _parse_array(dtype: str, dims: str, layout: str | None) -> Array:
    # A scalar has no sizes; a layout without a memory space is in main memory.
    sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
    space = _MEMORY_SPACE.search(layout or "")
    return Array(dtype, sizes, int(space.group(1)) if space else 0)


def _closing_bracket(text: str, start: int) -> int:
    """Index of the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"{text[start : start + 60]!r} must have a closing bracket; it has none")
