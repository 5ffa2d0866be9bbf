"""Whether a training step fits a slice, and what bounds its speed, from its compiled programs.

``compile_plan`` compiles every program of a step for a slice and returns a ``Plan``, whose seconds
are those of a roofline: FLOPs, bytes in memory and bytes over links at the peak rates of the chip.
Loops count as often as they run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from corl_jax.planner import memory
from corl_jax.planner.calls import CompiledProgram, compile_call
from corl_jax.planner.chips import Chip, Slice
from corl_jax.planner.decode_loop import DecodeLoop, decode_loop, loop_table
from corl_jax.planner.hlo import moved_bytes
from corl_jax.planner.programs import PHASES, PlannedStep


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a step on one chip. Its programs add up, except that the largest decides memory.

    Names of these fields are keys of the file that ``corl plan --json`` writes.

    Attributes:
      peak_gib: memory while it runs, with the train state and everything else that is on the chip.
      temp_gib: what the programs need besides arguments and results.
      flops, bytes, collective_bytes: of one step; in memory and over links.
      collectives: kind of collective to its bytes over links.
      roofline_seconds: the longest of arithmetic, memory and links at their peak rates.
      bound_by: which of the three it is.
      compile_seconds: on this machine.
      error: the compiler's message when it ran out of memory, or ""; ``temp_gib`` is then what the
        program requested altogether.
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
class Plan:
    """What ``corl plan`` prints; sizes are per chip.

    Attributes:
      slice_name: value of ``--topology``.
      mesh: mesh axis to its size.
      hbm_gib: memory of a chip.
      usable_gib: how much of it JAX may take: of a GPU, its pool.
      memory_parts: GiB by part, see ``memory.memory_parts``, and of the activations.
      phases: the phases of ``programs.PHASES``; those that were left out are empty.
      decode: of the image rollout; None where it was not compiled.
      update_collectives_over_minimum: bytes over links of the update, over
        ``memory.min_update_link_bytes``; None where it was not compiled or sends nothing.
      images_per_second_per_chip: at the roofline of all phases.
    """

    slice_name: str
    mesh: Mapping[str, int]
    hbm_gib: float
    usable_gib: float
    memory_parts: Mapping[str, float]
    phases: Mapping[str, Phase]
    decode: DecodeLoop | None
    update_collectives_over_minimum: float | None
    images_per_second_per_chip: float

    @property
    def peak_gib(self) -> float:
        """Memory of the largest phase."""
        return max(phase.peak_gib for phase in self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether every phase compiled and stays below the memory that JAX may take."""
        has_error = any(phase.error for phase in self.phases.values())
        return self.peak_gib <= self.usable_gib and not has_error


def compile_plan(
    step: PlannedStep,
    slice_: Slice,
    log: Callable[[str], None] = lambda line: None,
    phase_names: Collection[str] = PHASES,
    hlo_folder: Path | None = None,
) -> Plan:
    """Compiles the programs of ``step`` for ``slice_``.

    Args:
      step: over the devices of the slice.
      slice_: what to compile for.
      log: receives lines of progress.
      phase_names: phases to compile, of ``PHASES``.
      hlo_folder: where compiled programs and tables of their loops are written; None for nowhere.
    """
    parts, calls = memory.memory_parts(step), step.phases()
    phases: dict[str, Phase] = {}
    decode, links_over_minimum = None, None

    for name in PHASES:
        programs = [
            compile_call(call, step.trace, f"{name} {i + 1}", log, slice_.compiler_options)
            for i, call in enumerate(calls[name] if name in phase_names else ())
        ]
        if hlo_folder is not None:
            _write_programs(hlo_folder, name, programs)

        phases[name] = _phase(programs, slice_, memory.resident_gib(parts, name))

        # Two phases are compared with the least that they need.
        if name == "rollout_image" and programs and programs[0].module is not None:
            decode = decode_loop(step, programs[0])
        if name == "update" and programs and programs[0].module is not None:
            min_bytes = memory.min_update_link_bytes(step)
            links_over_minimum = phases[name].collective_bytes / min_bytes if min_bytes else None

    # The largest temporary memory of any program is mostly activations.
    parts["activations"] = max((phase.temp_gib for phase in phases.values()), default=0.0)
    return Plan(
        slice_name=slice_.name,
        mesh=dict(step.setup.sharder.mesh.shape),
        hbm_gib=slice_.chip.hbm_gib,
        usable_gib=slice_.usable_gib,
        memory_parts=parts,
        phases=phases,
        decode=decode,
        update_collectives_over_minimum=links_over_minimum,
        images_per_second_per_chip=image_rate(step, phases, slice_.count),
    )


def _write_programs(folder: Path, name: str, programs: Sequence[CompiledProgram]) -> None:
    """Writes every program as text, and what its loops move."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, program in enumerate(programs):
        if program.module is not None:
            (folder / f"{name}_{i + 1}.txt").write_text(program.text)
            (folder / f"{name}_{i + 1}_loops.txt").write_text(loop_table(program.module))


def image_rate(step: PlannedStep, phases: Mapping[str, Phase], chips: int) -> float:
    """Images per second and chip, if every phase ran at its roofline."""
    rollout_cfg = step.stage.cfg.rollout
    images = rollout_cfg.image_prompts * rollout_cfg.group_size
    seconds = sum(phase.roofline_seconds for phase in phases.values())
    return images / seconds / chips if seconds else 0.0


def _phase(programs: Sequence[CompiledProgram], slice_: Slice, resident_gib: float) -> Phase:
    """A phase of these programs, with ``resident_gib`` on the chip besides."""
    if not programs:
        return Phase()

    # Programs that were too large to compile have no bytes to count.
    traffic = sum(
        (
            moved_bytes.program_traffic(program.module).times(program.times)
            for program in programs
            if program.module is not None
        ),
        moved_bytes.NO_TRAFFIC,
    )

    # FLOPs are known even of those.
    flops_per_chip = sum(program.times * program.flops for program in programs) / slice_.count
    link_bytes = sum(traffic.link_bytes.values())
    seconds, bound_by = roofline(slice_.chip, flops_per_chip, traffic.hbm_bytes, link_bytes)

    # Programs run one after the other, so that the largest decides the memory.
    return Phase(
        peak_gib=resident_gib + max(program.temp_gib + program.output_gib for program in programs),
        temp_gib=max(program.temp_gib for program in programs),
        flops=flops_per_chip,
        bytes=traffic.hbm_bytes,
        collective_bytes=link_bytes,
        collectives=traffic.link_bytes,
        roofline_seconds=seconds,
        bound_by=bound_by,
        compile_seconds=sum(program.compile_seconds for program in programs),
        error=next((program.error for program in programs if program.error), ""),
    )


def roofline(
    chip: Chip, flops_per_chip: float, hbm_bytes: float, link_bytes: float
) -> tuple[float, str]:
    """The longest of the seconds that arithmetic, memory and links take, and which it is."""
    seconds = {
        "compute": flops_per_chip / (chip.tflop_s * 1e12),
        "memory": hbm_bytes / (chip.hbm_gb_s * 1e9),
        "links": link_bytes / (chip.link_gb_s * 1e9),
    }
    bound_by = max(seconds, key=lambda resource: seconds[resource])
    return seconds[bound_by], bound_by
