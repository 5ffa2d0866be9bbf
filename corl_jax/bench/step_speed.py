"""Speed of a training step (rollouts of both tasks, update), corl_jax alone or with transformers.

corl_jax is timed and its table printed before transformers is loaded, so that it is known whatever
happens there. Then both run in one process, in turn, with the same random weights, prompts and
advantages.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax

from corl_jax.bench.decode_contenders import check_torch
from corl_jax.bench.device_rates import (
    DeviceRates,
    chip_name,
    measure_device_rates,
    shares_memory,
)
from corl_jax.bench.timing import (
    CORL_JAX,
    LABELS,
    PHASES,
    TRANSFORMERS,
    LogLine,
    StepTiming,
    time_rounds,
    time_step,
    write_trace,
)
from corl_jax.bench.torch_baseline import TorchStep
from corl_jax.bench.train_step import JaxStep
from corl_jax.bench.workloads import (
    Workload,
    get_model_config,
    make_image_prompts,
    make_question_prompts,
    make_random_policy,
    with_image_tokens,
    write_policy,
)
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.runtime import set_cpu_devices
from corl_jax.models.janus.config import JanusConfig

UNIT = "steps/s"
# Default of ``--repeats`` by size.
REPEATS = {"dot": 3, "tiny": 5, "mid": 2, "janus_pro_1b": 2}

# Sizes at which torch adds up gradients over half the samples of a prompt at a time: at ``mid`` the
# image logits of a group are 0.3 GB, of which several copies are held. corl_jax adds up gradients
# prompt by prompt at every size.
LARGE_SIZES = ("mid", "janus_pro_1b")
# How corl_jax updates at those sizes: recomputing activations costs a CPU less than fresh pages of
# memory for them.
LARGE_UPDATE: dict[str, Any] = {"chunk_length": 72, "remat": "dots", "unroll": 1}


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What ``corl bench step`` runs.

    Attributes:
      size: of the model, a name in ``workloads.SIZES``.
      against: what corl_jax is compared with, ``transformers`` or ``nothing``.
      prompts: of each task.
      group_size: samples per prompt.
      image_tokens: of an image, or None for those of the size.
      devices: on which corl_jax runs, or None for all; on a CPU they are threads.
      repeats: steps of each contender, or None for the default of the size.
      profile: folder for a JAX trace of one more step of corl_jax, or None.
      count_flops: ``planner.flops.call_flops``, or None to print no MFU.
      peak_tflop_s: of chips by name, from their data sheets; see ``device_rates.chip_name``.
    """

    size: str
    against: str
    prompts: int
    group_size: int
    image_tokens: int | None = None
    devices: int | None = None
    repeats: int | None = None
    profile: pathlib.Path | None = None
    count_flops: Callable[..., float] | None = None
    peak_tflop_s: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def with_torch(self) -> bool:
        """Whether transformers runs too."""
        return self.against == TRANSFORMERS

    @property
    def rounds(self) -> int:
        """Timed steps of each contender."""
        return self.repeats or REPEATS[self.size]

    def workload(self) -> Workload:
        """How much a step does, and in which parts."""
        workload = Workload(self.prompts, self.group_size, microbatches=self.prompts)
        if self.size not in LARGE_SIZES:
            return workload
        # Half a group at a time; an odd one stays in one part.
        torch_parts = self.prompts * (2 if self.group_size % 2 == 0 else 1)
        return dataclasses.replace(workload, torch_parts=torch_parts, **LARGE_UPDATE)


def run_benchmark(options: StepOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table by phase.

    Returns:
      the values for JSON. ``ours`` and ``theirs`` are steps per second.

    Raises:
      UserError: an option out of range; torch is missing, or does not find the device of JAX.
    """
    # Looking up the model makes JAX look at its devices, so their number is set before.
    if options.devices is not None:
        if options.devices < 1 or options.prompts % options.devices:
            raise UserError(
                f"--devices must divide the {options.prompts} prompts; got {options.devices}. "
                "Choose a divisor of --prompts, or more prompts"
            )
        set_cpu_devices(options.devices)

    cfg = get_model_config(options.size)
    if options.image_tokens is not None:
        cfg = with_image_tokens(cfg, options.image_tokens)

    # Measure, then print.
    workload = options.workload()
    rates = measure_device_rates()
    timing = time_train_step(cfg, workload, options, log)
    print(format_table(options.size, timing))
    print(
        f"{workload.prompts} prompts and questions x {workload.group_size} samples, "
        f"{cfg.image_tokens} image tokens, answers of {workload.answer_length}; "
        f"first step of ours {timing.first_step:.1f} s"
    )
    mfu = update_mfu(timing, rates, options)
    print(format_mfu(timing, rates, mfu))

    # Keys of the JSON file stay as they are, whatever the names in the code.
    phases = phase_entries(timing)
    total = phases["total"]
    return {
        "size": options.size,
        "against": options.against,
        "devices": options.devices,
        "ours": 1 / total["ours"],
        "theirs": 1 / total["theirs"] if "theirs" in total else None,
        "ratio": total.get("ratio"),
        "unit": UNIT,
        "phases": phases,
        "first_step_seconds": timing.first_step,
        "torch_threads": timing.threads,
        "theirs_error": timing.theirs_error,
        "device_rates": rates.as_json(),
        "update_flops": timing.update_flops,
        "mfu": mfu,
        "work": workload.as_json() | {"image_tokens": cfg.image_tokens},
    }


def update_mfu(
    timing: StepTiming, rates: DeviceRates, options: StepOptions
) -> dict[str, float] | None:
    """Shares of the measured matmul rate and of the chip's peak that the update reaches.

    The FLOPs are those of the update's trace with nothing computed again, whatever the update
    really recomputes.

    Returns:
      ``of_measured`` and, where the peak is known, ``of_peak``; None where FLOPs were not counted,
      or the devices are threads of one CPU.
    """
    devices = options.devices or jax.device_count()
    if timing.update_flops is None or shares_memory(devices):
        return None
    tflop_s = timing.update_flops / timing.seconds[CORL_JAX]["update"] / devices / 1e12
    mfu = {"of_measured": tflop_s / rates.matmul_tflop_s}
    chip = chip_name(jax.devices()[0].device_kind)
    if chip is not None and chip in options.peak_tflop_s:
        mfu["of_peak"] = tflop_s / options.peak_tflop_s[chip]
    return mfu


def format_mfu(timing: StepTiming, rates: DeviceRates, mfu: dict[str, float] | None) -> str:
    """The line below the table: rates of the device, and what the update makes of them."""
    if mfu is None or timing.update_flops is None:
        return str(rates)
    line = f"update {timing.update_flops / 1e12:.3g} TFLOP, MFU {mfu['of_measured']:.1%}"
    if "of_peak" in mfu:
        line += f" ({mfu['of_peak']:.1%} of the chip's peak)"
    return f"{line}; {rates}"


def phase_entries(timing: StepTiming) -> dict[str, dict[str, float]]:
    """Seconds of each phase by contender, and how many times faster corl_jax is."""
    entries: dict[str, dict[str, float]] = {}
    for phase in PHASES:
        entry = {LABELS[name]: seconds[phase] for name, seconds in timing.seconds.items()}
        # Without torch there is nothing to compare with.
        if "theirs" in entry:
            entry["ratio"] = entry["theirs"] / entry["ours"]
        entries[phase] = entry
    return entries


def format_table(size: str, timing: StepTiming) -> str:
    """The table for people."""
    head = f"{size:14} {'ours (s)':>12}"
    if timing.threads is not None:
        head += f" {'theirs (s)':>12} {'ratio':>7} {'threads':>8}"

    lines = [head]
    for phase, entry in phase_entries(timing).items():
        line = f"{phase:14} {entry['ours']:12.3f}"
        if timing.threads is not None:
            # A step has no number of threads of its own: its phases have.
            threads = "" if phase == "total" else timing.threads[phase]
            line += f" {entry['theirs']:12.3f} {entry['ratio']:7.2f} {threads:>8}"
        lines.append(line)

    return "\n".join(lines)


def time_train_step(
    cfg: JanusConfig, workload: Workload, options: StepOptions, log: LogLine
) -> StepTiming:
    """Times steps of corl_jax and, where ``options`` say so, of torch in turn.

    Args:
      cfg: sizes of the model.
      workload: how much a step does.
      options: ``against``, ``devices``, ``rounds`` and ``profile`` are used.
      log: prints a line of progress.

    Raises:
      UserError: there are fewer devices than ``devices``; torch is needed and not installed, or
        does not find the device that JAX runs on.
    """
    # What is missing is reported before weights are made, which takes a while.
    devices = jax.devices()
    if options.devices is not None and options.devices > len(devices):
        raise UserError(
            f"--devices must be at most {len(devices)}, as many as JAX has; got {options.devices}"
        )
    if options.with_torch:
        check_torch()

    # Trained parameters are float32, as in a run.
    policy = make_random_policy(cfg, "float32")
    log("random weights are made; compiling")
    image_prompts = make_image_prompts(policy.tokenizer, workload.prompts)
    text_prompts = make_question_prompts(policy.tokenizer, cfg, workload.prompts)

    # Without an end token every answer has its full length.
    banned = (*policy.fns.ids.banned, policy.tokenizer.eos_id)
    ids = dataclasses.replace(policy.fns.ids, banned=banned)

    with tempfile.TemporaryDirectory() as temporary:
        # Torch's folder is written first: the update donates the parameters, and changes them.
        folder = write_policy(policy, pathlib.Path(temporary)) if options.with_torch else None

        # The first step of corl_jax compiles its programs.
        step_args = (image_prompts, text_prompts, ids, workload)
        jax_step = JaxStep(policy, *step_args, devices[: options.devices])
        first_step = time_step(jax_step, 0)["total"]
        log(f"first step of ours, compilation included: {first_step:.1f} s")

        # corl_jax alone.
        seconds = time_rounds({CORL_JAX: jax_step}, options.rounds, log)
        write_trace(lambda: time_step(jax_step, 0), options.profile)
        timing = StepTiming(seconds, first_step, None)
        if options.count_flops is not None:
            update_flops = jax_step.update_flops(options.count_flops)
            timing = dataclasses.replace(timing, update_flops=update_flops)
        if folder is None:
            return timing

        # Then both. Whatever goes wrong in torch or transformers, what is known of corl_jax stays.
        print(format_table(options.size, timing), flush=True)
        try:
            log("loading theirs, finding its best numbers of threads")
            torch_step = TorchStep(folder, *step_args)
            torch_step.choose_threads()
            seconds = time_rounds(
                {CORL_JAX: jax_step, TRANSFORMERS: torch_step}, options.rounds, log
            )
        except Exception as error:
            message = describe_error(error)
            print(f"transformers failed: {message}", flush=True)
            return dataclasses.replace(timing, theirs_error=message)
        return dataclasses.replace(timing, seconds=seconds, threads=torch_step.threads)
