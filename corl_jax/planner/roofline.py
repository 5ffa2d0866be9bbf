"""Whether a step fits a slice, and what bounds it. In: an abstract step and a slice. Out: a ``Plan``.

On a TPU slice every number comes from the compiled programs; loops count as often as they run. On GPUs, where no
compiler is at hand, memory and bytes are formulas, see ``planner.gpu_estimate``, and only the
arithmetic is the program's own.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping

import jax

from corl_jax.planner import flops, hlo, hlo_bytes, memory
from corl_jax.planner.calls import Call
from corl_jax.planner.chips import Chip, Slice
from corl_jax.planner.programs import PHASES, Step

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase on one chip; several programs add up, and the largest counts for memory.

    Attributes:
      peak_gib: all that lies in memory while it runs, the state of training included.
      temp_gib: what the programs need beside arguments and results.
      flops, bytes, collective_bytes: of one step.
      collectives: bytes by kind.
      roofline_seconds: the longest of arithmetic, memory and links at their peaks; ``bound_by`` says which.
      compile_seconds: on this machine.
      error: what the compiler said when it ran out of memory, or ""; ``temp_gib`` is then all that it wanted.
    """

    peak_gib: float = 0.0
    temp_gib: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    collective_bytes: float = 0.0
    collectives: Mapping[str, float] = dataclasses.field(default_factory=dict)
    roofline_seconds: float = 0.0
    bound_by: str = ""
    compile_seconds: float = 0.0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Decode:
    """The loop over image tokens: bytes of a step over the least, temporary memory over what stays, cache copies."""

    bytes_over_minimum: float
    temp_over_resident: float
    cache_copies: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What ``corl plan`` prints; GiB are per chip."""

    slice_name: str
    mesh: Mapping[str, int]
    hbm_gib: float
    parts: Mapping[str, float]
    phases: Mapping[str, Phase]
    decode: Decode | None
    update_collectives_over_minimum: float | None
    images_per_second_per_chip: float
    compiled: bool

    @property
    def peak_gib(self) -> float:
        """Of the largest phase."""
        return max(phase.peak_gib for phase in self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether every phase compiled and stays below the chip's memory."""
        return self.peak_gib <= self.hbm_gib and not any(
            phase.error for phase in self.phases.values()
        )


def make_plan(step: Step, slice_: Slice, log: Callable[[str], None] = lambda line: None) -> Plan:
    """Compiles every program of ``step`` for ``slice_``; ``log`` takes lines of progress."""
    parts = memory.parts(step)
    phases, decode, links = {}, None, None
    for name in PHASES:
        compiled = [
            _compile(step, call, f"{name} {i + 1}", log)
            for i, call in enumerate(step.phases()[name])
        ]
        held = sum(parts[part] for part in memory.STATE) + parts["reward_models"]
        held += 0 if name == "update" else parts["rollout_parameters"]
        phases[name] = _phase(compiled, slice_, held)
        if name == "rollout_image" and compiled and compiled[0].module is not None:
            decode = _decode(step, compiled[0])
        if name == "update" and compiled[0].module is not None:
            least = memory.update_collectives(step)
            links = phases[name].collective_bytes / least if least else None
    parts["activations"] = max((phase.temp_gib for phase in phases.values()), default=0.0)
    seconds = sum(phase.roofline_seconds for phase in phases.values())
    pictures = step.stage.settings.pictures * step.stage.settings.group
    rate = pictures / seconds / slice_.count if seconds else 0.0
    mesh = dict(step.parts.sharder.mesh.shape)
    return Plan(slice_.name, mesh, slice_.chip.hbm_gib, parts, phases, decode, links, rate, True)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One compiled program: its text, memory in GiB, FLOPs of all chips, seconds; ``error`` instead where it failed.

    A step runs it ``times`` times.
    """

    module: hlo.Module | None
    temp: float
    extra: float
    flops: float
    seconds: float
    error: str
    times: int


def _compile(step: Step, call: Call, name: str, log: Callable[[str], None]) -> Compiled:
    log(f"compiling {name}")
    start = time.perf_counter()
    traced = step.trace(call)
    work = flops.of_jaxpr(traced.jaxpr.jaxpr)
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = " ".join(str(error).split())[:300]
        return Compiled(
            None, wanted_gib(said), 0.0, work, time.perf_counter() - start, said, call.times
        )
    seconds, memory = time.perf_counter() - start, program.memory_analysis()
    temp = memory.temp_size_in_bytes / GIB
    log(f"compiled {name} in {seconds:.0f} s, {temp:.1f} GiB of temporary memory")
    extra = (memory.output_size_in_bytes - memory.alias_size_in_bytes) / GIB
    module = hlo.parse(program.as_text())
    return Compiled(module, temp, extra, work, seconds, "", call.times)


def wanted_gib(said: str) -> float:
    """GiB that a program wanted when the compiler ran out of memory: the largest size in its message.

    Raises:
      ValueError: the message names no size.
    """
    unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
    found = [
        float(size) * unit[letter]
        for size, letter in re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", said)
    ]
    if not found:
        raise ValueError(f"out of memory, by how much is not said: {said}")
    return max(found)


def _phase(programs: list[Compiled], slice_: Slice, held: float) -> Phase:
    if not programs:
        return Phase()
    moved = [
        hlo_bytes.of_program(one.module).times(one.times)
        for one in programs
        if one.module is not None
    ]
    total = sum(moved, hlo_bytes.Traffic(0.0, {}))
    work = sum(one.times * one.flops for one in programs) / slice_.count
    links = sum(total.collectives.values())
    seconds, slowest = bound(slice_.chip, work, total.bytes, links)
    return Phase(
        peak_gib=held + max(one.temp + one.extra for one in programs),
        temp_gib=max(one.temp for one in programs),
        flops=work,
        bytes=total.bytes,
        collective_bytes=links,
        collectives=total.collectives,
        roofline_seconds=seconds,
        bound_by=slowest,
        compile_seconds=sum(one.seconds for one in programs),
        error=next((one.error for one in programs if one.error), ""),
    )


def bound(chip: Chip, work: float, moved: float, sent: float) -> tuple[float, str]:
    """Seconds that FLOPs, bytes and bytes over links take at the chip's peaks, the longest of the three, and which."""
    seconds = {
        "compute": work / (chip.tflop_s * 1e12),
        "memory": moved / (chip.hbm_gb_s * 1e9),
        "links": sent / (chip.link_gb_s * 1e9),
    }
    slowest = max(seconds, key=lambda kind: seconds[kind])
    return seconds[slowest], slowest


def _decode(step: Step, program: Compiled) -> Decode | None:
    """Of the loops whose turns run all layers: those over image tokens. None where layers do not run as a loop."""
    assert program.module is not None
    module, cache = program.module, memory.image_cache(step)
    turns, moved, copies = 0, 0.0, 0
    for _, body, trips in hlo_bytes.loops(module):
        if any(True for _ in hlo_bytes.loops(module, body)):
            turns += trips
            moved += trips * hlo_bytes.of_computation(module, body).bytes
            copies += hlo_bytes.copies(module, body, int(cache.layer_gib * GIB / 2))
    if not turns:
        return None
    least = memory.decoding_weights(step) + cache.read_gib
    resident = memory.decoding_weights(step) + cache.total_gib
    return Decode(moved / turns / GIB / least, (program.temp - cache.total_gib) / resident, copies)
