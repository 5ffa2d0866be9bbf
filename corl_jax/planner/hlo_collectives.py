"""What chips send each other, by instruction of a compiled program. In: an instruction; out: its exchanges.

Most stand by themselves. A TPU's compiler hides others in fusions: a gathering that proceeds beside several products is
named in each of them and counts where it begins; a sum of which every chip keeps its own slice is a sum and a slice.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from corl_jax.planner.hlo import Computation, Instruction, Module

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BEGUN, FINISHED = (f'custom_call_target="AsyncCollective{event}"' for event in ("Start", "Done"))
"""Attributes of the results of fusions where a gathering beside products begins and ends."""
BESIDE = "async_collective_fusion_config"
"""In the attributes of such a gathering, wherever it is named."""


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Of one device.

    Attributes:
      kind: one of ``COLLECTIVES``.
      sent: bytes that cross the links; a ring's share for those that have one.
    """

    kind: str
    sent: float


def exchanges(module: Module, at: Computation, one: Instruction) -> Iterator[Exchange]:
    """Exchanges that an instruction of ``at`` is or begins."""
    if one.opcode in ("fusion", "async-start") and one.called:
        inside = module.computations[one.called[0]]
        for inner in inside.instructions.values():
            if BESIDE not in inner.attributes or BEGUN in inside.root.attributes:
                yield from exchanges(module, inside, inner)
    kind = one.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return
    if kind == "all-reduce" and [user.opcode for user in at.users[one.name]] == ["dynamic-slice"]:
        kind = "reduce-scatter"
    given = sum(array.bytes for name in one.operands for array in at.instructions[name].arrays)
    members = _members(one.attributes) if kind != "collective-permute" else 2
    share = (members - 1) / members
    per = {
        "all-gather": members - 1.0,
        "all-reduce": 2 * share,
        "reduce-scatter": share,
        "all-to-all": share,
    }
    yield Exchange(kind, given * per.get(kind, 1.0))


def _members(attributes: str) -> int:
    """Devices that take part in one group: ``{{0,1},{2,3}}``, ``[2,4]<=[8]`` or ``mesh['a'=2,'b'=4] {'b'}``."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found.group(1).split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found.group(1))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        whole = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", found.group(1))}
        named = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part) if part else whole[name] for name, part in named)
    raise ValueError(f"no devices are named in {attributes[:200]!r}")
