"""The collectives of a compiled program: what chips send each other, by instruction.

Most are instructions of their own. The TPU compiler hides two kinds in fusions:

* An all-gather that overlaps with several products is named in the fusion of each product. It
  counts where it starts.
* An all-reduce whose result is sliced, so that every chip keeps a slice of its own, is a
  reduce-scatter.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from corl_jax.planner.hlo.module import Computation, Instruction, Module

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

ASYNC_START = 'custom_call_target="AsyncCollectiveStart"'
ASYNC_DONE = 'custom_call_target="AsyncCollectiveDone"'
"""In the attributes of a fusion's root where an all-gather that overlaps with products ends; it
starts in a fusion whose root has ``ASYNC_START``."""

ASYNC_FUSION = "async_collective_fusion_config"
"""In the attributes of such an all-gather, wherever it is named."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective, as one device takes part in it.

    Attributes:
      kind: one of ``COLLECTIVES``.
      link_bytes: bytes that the device sends; a ring's share, for kinds that run as a ring.
    """

    kind: str
    link_bytes: float


def collectives(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[Collective]:
    """Collectives that an instruction of ``computation`` is or starts."""
    if instruction.opcode in ("fusion", "async-start") and instruction.called:
        fusion = module.computations[instruction.called[0]]
        for inner in fusion.instructions.values():
            # One that overlaps with products is skipped except in the fusion that starts it.
            if ASYNC_FUSION not in inner.attributes or ASYNC_START in fusion.root.attributes:
                yield from collectives(module, fusion, inner)

    # An asynchronous collective counts at its start.
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return

    # An all-reduce of which only a slice is used sends as much as a reduce-scatter.
    user_opcodes = [user.opcode for user in computation.users[instruction.name]]
    if kind == "all-reduce" and user_opcodes == ["dynamic-slice"]:
        kind = "reduce-scatter"

    # On a ring of n devices, each sends (n - 1) / n of the complete array once; for an all-reduce,
    # twice. The operand of an all-gather is a shard, 1 / n of that array.
    operand_bytes = sum(
        computation.instructions[name].result_bytes for name in instruction.operands
    )
    group_size = _group_size(instruction.attributes) if kind != "collective-permute" else 2
    ring_share = (group_size - 1) / group_size
    sent_per_byte = {
        "all-gather": group_size - 1.0,
        "all-reduce": 2 * ring_share,
        "reduce-scatter": ring_share,
        "all-to-all": ring_share,
        "collective-permute": 1.0,
    }
    yield Collective(kind, operand_bytes * sent_per_byte[kind])


def _group_size(attributes: str) -> int:
    """Devices in one group of a collective.

    Groups are written as ``{{0,1},{2,3}}``, as ``[2,4]<=[8]`` (2 groups of 4), or as axes of a
    mesh: ``mesh['a'=2,'b'=4] {'b'}``, where ``'b':(2)2`` is a part of size 2 of an axis.
    """
    # The first group stands for all.
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(match.group(1).split(","))
    # Number of groups, then their size.
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(match.group(1))
    # The axes that a group spans, of a mesh with named axes.
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        axes = re.findall(r"('\w+')=(\d+)", match.group(1))
        axis_sizes = {name: int(size) for name, size in axes}
        group_axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", match.group(2))
        return math.prod(int(part) if part else axis_sizes[name] for name, part in group_axes)
    raise ValueError(f"a collective must name the devices of its groups; got {attributes[:200]!r}")
