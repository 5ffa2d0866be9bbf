"""Speed of a training step (rollouts of both tasks, update), corl_jax compared with transformers.

Both have the same random weights, prompts and advantages and run in one process, in turn.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax

from corl_jax.bench.decode_contenders import check_torch
from corl_jax.bench.timing import (
    CORL_JAX,
    LABELS,
    PHASES,
    TRANSFORMERS,
    LogLine,
    StepContender,
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
    with_image_tokens,
    write_random_policy,
)
from corl_jax.core.errors import UserError
from corl_jax.core.runtime import set_cpu_devices
from corl_jax.models.janus.config import JanusConfig
from corl_jax.sampling.policy import Policy

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
    """

    size: str
    against: str
    prompts: int
    group_size: int
    image_tokens: int | None = None
    devices: int | None = None
    repeats: int | None = None
    profile: pathlib.Path | None = None

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
    timing = time_train_step(cfg, workload, options, log)
    print(format_table(options.size, timing))
    print(
        f"{workload.prompts} prompts and questions x {workload.group_size} samples, "
        f"{cfg.image_tokens} image tokens, answers of {workload.answer_length}; "
        f"first step of ours {timing.first_step:.1f} s"
    )

    # Keys of the JSON file stay as they are, whatever the names in the code.
    phases = phase_entries(timing)
    total = phases["total"]
    return {
        "size": options.size,
        "against": options.against,
        "devices": options.devices,
        "ours": 1 / total["ours"],
        "theirs": 1 / total["theirs"] if options.with_torch else None,
        "ratio": total["ratio"] if options.with_torch else None,
        "unit": UNIT,
        "phases": phases,
        "first_step_seconds": timing.first_step,
        "torch_threads": timing.threads,
        "work": workload.as_json() | {"image_tokens": cfg.image_tokens},
    }


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

    # Both contenders read the same folder, which torch no longer needs once it is loaded.
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_random_policy(cfg, pathlib.Path(temporary))
        log("random weights are written; loading ours, compiling")

        policy = Policy.load(folder)
        image_prompts = make_image_prompts(policy.tokenizer, workload.prompts)
        text_prompts = make_question_prompts(policy.tokenizer, cfg, workload.prompts)

        # Without an end token every answer has its full length.
        banned = (*policy.fns.ids.banned, policy.tokenizer.eos_id)
        ids = dataclasses.replace(policy.fns.ids, banned=banned)

        # The first step of corl_jax compiles its programs.
        jax_step = JaxStep(
            policy, image_prompts, text_prompts, ids, workload, devices[: options.devices]
        )
        first_step = time_step(jax_step, 0)["total"]
        log(f"first step of ours, compilation included: {first_step:.1f} s")

        contenders: dict[str, StepContender] = {CORL_JAX: jax_step}
        threads = None
        if options.with_torch:
            log("loading theirs, finding its best numbers of threads")
            torch_step = TorchStep(folder, image_prompts, text_prompts, ids, workload)
            torch_step.choose_threads()
            contenders[TRANSFORMERS] = torch_step
            threads = torch_step.threads

    # Both are warm now.
    seconds = time_rounds(contenders, options.rounds, log)
    write_trace(lambda: time_step(jax_step, 0), options.profile)
    return StepTiming(seconds, first_step, threads)
