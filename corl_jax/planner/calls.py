"""A program of a training step: how it is traced and compiled, and how often a step runs it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from corl_jax.planner import flops
from corl_jax.planner.hlo import module as hlo

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class ProgramCall:
    """A program that a phase of a step runs.

    Attributes:
      trace: traces the program over abstract arrays; see ``programs.PlannedStep.trace``.
      times: how often a step runs it.
    """

    trace: Callable[[], jax.stages.Traced]
    times: int = 1


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A program after compilation.

    Attributes:
      text: as the compiler prints it; "" where it ran out of memory.
      module: its instructions; None where the compiler ran out of memory.
      temp_gib: temporary memory; where the compiler ran out of memory, all that was requested.
      output_gib: results that do not reuse the memory of a donated argument.
      flops: on all chips together.
      compile_seconds: on this machine.
      error: the compiler's message where it ran out of memory, else "".
      times: how often a step runs the program.
    """

    text: str
    module: hlo.Module | None
    temp_gib: float
    output_gib: float
    flops: float
    compile_seconds: float
    error: str
    times: int


def compile_call(
    call: ProgramCall,
    trace: Callable[[ProgramCall], jax.stages.Traced],
    name: str,
    log: Callable[[str], None],
    compiler_options: Sequence[dict[str, str | bool | int]],
) -> CompiledProgram:
    """Traces and compiles a program.

    Args:
      call: the program.
      trace: ``programs.PlannedStep.trace``.
      name: of the program, for the log.
      log: receives lines of progress.
      compiler_options: besides the compiler's defaults; each in turn, until the compiler succeeds.

    Returns:
      the program; with an error where the compiler ran out of memory.
    """
    log(f"compiling {name}")
    start = time.perf_counter()

    # FLOPs are counted in the trace, before the compiler rewrites anything.
    traced = trace(call)
    program_flops = flops.jaxpr_flops(traced.jaxpr.jaxpr)

    # A program that is too large for the chip fails to compile: that is a finding, not an error.
    try:
        program = compile_lowered(traced.lower(), compiler_options, log)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        message = " ".join(str(error).split())[:300]
        return CompiledProgram(
            text="",
            module=None,
            temp_gib=requested_gib(message),
            output_gib=0.0,
            flops=program_flops,
            compile_seconds=time.perf_counter() - start,
            error=message,
            times=call.times,
        )

    # Results that take the memory of a donated argument need none of their own.
    seconds, analysis = time.perf_counter() - start, program.memory_analysis()
    output_gib = (analysis.output_size_in_bytes - analysis.alias_size_in_bytes) / GIB
    temp_gib = analysis.temp_size_in_bytes / GIB
    log(f"compiled {name} in {seconds:.0f} s, {temp_gib:.1f} GiB of temporary memory")
    text = program.as_text()
    return CompiledProgram(
        text=text,
        module=hlo.parse(text),
        temp_gib=temp_gib,
        output_gib=output_gib,
        flops=program_flops,
        compile_seconds=seconds,
        error="",
        times=call.times,
    )


def compile_lowered(
    lowered: Any,
    compiler_options: Sequence[dict[str, str | bool | int]],
    log: Callable[[str], None],
) -> Any:
    """The lowered program, compiled with the first options for which the compiler has no internal error.

    Raises:
      JaxRuntimeError: the program is too large, or fails with all options.
    """
    *first, last = compiler_options
    for options in first:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "INTERNAL" not in str(error):
                raise
            message = " ".join(str(error).split())[:120]
            log(f"compiling again with {last}, since the compiler says: {message}")
    return lowered.compile(compiler_options=last)


def requested_gib(message: str) -> float:
    """GiB that a program requested when the compiler ran out of memory: the message's largest size.

    Raises:
      ValueError: the message names no size.
    """
    # The message also names the memory that there is, which is less.
    gib_per_unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
    sizes = [
        float(size) * gib_per_unit[unit]
        for size, unit in re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", message)
    ]
    if not sizes:
        raise ValueError(f"an out-of-memory error must name a size; got {message}")
    return max(sizes)
