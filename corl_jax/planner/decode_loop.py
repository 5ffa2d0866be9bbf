"""How well the loop over image tokens compiles: its bytes against the least, and what it copies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from corl_jax.core.trees import matches
from corl_jax.models.janus.model import JANUS_LAYER_PATTERNS
from corl_jax.planner import memory
from corl_jax.planner.calls import GIB, CompiledProgram
from corl_jax.planner.hlo import moved_bytes
from corl_jax.planner.hlo.module import Computation, Instruction, Module
from corl_jax.planner.programs import PlannedStep

MIN_WEIGHTS_SHARE = 0.4
"""Share of the sampling weights that a loop over tokens carries and reads; int8 halves them."""


@dataclasses.dataclass(frozen=True)
class DecodeLoop:
    """How well the loop over image tokens compiles.

    Attributes:
      bytes_over_minimum: bytes in memory of a decode step, over those of the weights once and the
        filled KV cache once.
      copy_bytes_over_minimum: those of kernels that only move large arrays (copies and slices of
        weights or cache), over the same least.
      temp_over_resident: temporary memory besides the cache, over weights and cache.
      cache_copies: copies of the cache in the loop.
    """

    bytes_over_minimum: float
    copy_bytes_over_minimum: float
    temp_over_resident: float
    cache_copies: int


def decode_loop(step: PlannedStep, program: CompiledProgram) -> DecodeLoop | None:
    """The loop over image tokens of the image rollout; None where the program has none."""
    assert program.module is not None
    module, cache = program.module, memory.image_cache_size(step)
    weights_gib = memory.decode_weights_gib(step)

    # Half of one layer's keys is large enough to be a part of the cache, and half of the smallest
    # matrix of a layer to be a part of the weights.
    min_cache_bytes = int(cache.layer_gib * GIB / 2)
    min_copy_bytes = min(min_cache_bytes, _smallest_matrix_bytes(step) // 2)
    steps, total_bytes, copy_bytes, copies = 0, 0.0, 0.0, 0
    for body, trip_count in _token_loops(module, MIN_WEIGHTS_SHARE * weights_gib * GIB):
        steps += trip_count
        total_bytes += trip_count * moved_bytes.computation_traffic(module, body).hbm_bytes
        copy_bytes += trip_count * moved_bytes.copied_bytes(module, body, min_copy_bytes)
        copies += moved_bytes.count_copies(module, body, min_cache_bytes)
    if not steps:
        return None

    # A step reads at least the weights once and the filled part of the cache once.
    min_bytes = steps * GIB * (weights_gib + cache.read_gib)
    resident_gib = weights_gib + cache.total_gib
    return DecodeLoop(
        bytes_over_minimum=total_bytes / min_bytes,
        copy_bytes_over_minimum=copy_bytes / min_bytes,
        temp_over_resident=(program.temp_gib - cache.total_gib) / resident_gib,
        cache_copies=copies,
    )


def _token_loops(module: Module, min_bytes: float) -> list[tuple[Computation, int]]:
    """Body and trip count of the loops over image tokens.

    Args:
      min_bytes: what such a loop carries and moves in a turn at least.
    """
    # Such a loop carries the weights; the loop that makes pixels has none of them. Prompts are read
    # by a loop that carries them too, one turn for every layer of their stacks.
    carrying = [
        (body, trip_count)
        for loop, body, trip_count in moved_bytes.loops(module)
        if loop.result_bytes >= min_bytes and _stack_bytes(loop, trip_count) < min_bytes / 2
    ]

    # Where layers are a loop, a loop with a loop inside is one over image tokens. Small weights may
    # lie in the chip's own memory, so that a turn moves nothing.
    nested = [
        (body, trip_count)
        for body, trip_count in carrying
        if any(True for _ in moved_bytes.loops(module, body))
    ]
    if nested:
        return nested

    # Where layers are not a loop, it is one that reads the weights that it carries.
    return [
        (body, trip_count)
        for body, trip_count in carrying
        if moved_bytes.computation_traffic(module, body).hbm_bytes >= min_bytes
    ]


def _stack_bytes(loop: Instruction, layers: int) -> int:
    """Bytes of the arrays in a loop's state that have ``layers`` rows."""
    return sum(array.bytes for array in loop.arrays if array.dims[:1] == (layers,))


def loop_table(module: Module, rows: int = 25) -> str:
    """The outermost loops of a program, and the instructions that move the most bytes in a turn.

    Copies, which compute nothing, are marked.
    """
    lines = []
    for loop, body, trip_count in moved_bytes.loops(module):
        moved = sorted(_moved_bytes(module, body), key=lambda row: row[0], reverse=True)
        total = sum(size for size, *_ in moved)
        lines.append(f"{loop.name}: {trip_count} turns, {total / 1e6:.1f} MB in each")
        for size, runs, instruction in moved[:rows]:
            shapes = " ".join(f"{array.dtype}{list(array.dims)}" for array in instruction.arrays)
            mark = " copy" if moved_bytes.only_moves(module, instruction) else ""
            lines.append(f"{size / 1e6:12.1f} MB {runs:5} x {instruction.name} {shapes[:80]}{mark}")
    return "\n".join([*lines, ""])


def _moved_bytes(
    module: Module, computation: Computation, runs: int = 1
) -> Iterator[tuple[float, int, Instruction]]:
    """Bytes of all runs of an instruction, how often it runs, the instruction; loops are opened."""
    for instruction in computation.instructions.values():
        if instruction.opcode == "while":
            body, turns = module.loop_part(instruction, "body"), module.trip_count(instruction)
            yield from _moved_bytes(module, body, runs * turns)
        elif instruction.opcode in ("call", "conditional"):
            for name in instruction.called:
                yield from _moved_bytes(module, module.computations[name], runs)
        else:
            size = runs * moved_bytes.hbm_bytes(module, computation, instruction)
            yield size, runs, instruction


def _smallest_matrix_bytes(step: PlannedStep) -> int:
    """Bytes on a chip of the smallest matrix of one layer, as sampling has it."""
    return min(
        math.prod(spec.sharding.shard_shape(spec.shape)[1:]) * spec.dtype.itemsize
        for path, spec in step.setup.rollout_param_specs.items()
        if matches(path, JANUS_LAYER_PATTERNS) and len(spec.shape) == 3
    )
