"""Times decoding, training steps, their scaling, attention kernels and the input on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from corl_jax.commands.common import Devices, check_file, number, path_flag
from corl_jax.core.checks.config_block import Interval
from corl_jax.core.checks.paths import check_writable
from corl_jax.core.files import write_json

# Prints a line of progress. ``bench.timing`` has the same type, but imports JAX.
LogLine = Callable[[str], None]

Repeats = Annotated[int, Interval(ge=1, le=1000)]
Samples = Annotated[int, Interval(ge=1, le=4096)]
Prompts = Annotated[int, Interval(ge=1, le=1024)]
GroupSize = Annotated[int, Interval(ge=2, le=1024)]
ImageSize = Annotated[int, Interval(ge=16, le=4096)]
BatchSize = Annotated[int, Interval(ge=1, le=4096)]
Workers = Annotated[int, Interval(ge=0, le=256)]
Gigabytes = Annotated[float, Interval(gt=0, le=1000)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Seconds = Annotated[float, Interval(ge=0, le=3600)]
Length = Annotated[int, Interval(ge=1, le=2**14)]
ImageTokens = Annotated[int, Interval(ge=1, le=2**16)]

SIZES = "dot, tiny, mid, or (not on a CPU) janus_pro_1b"
DEVICES = "devices for corl_jax, each with prompts of its own; on a CPU they are threads"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a command for each benchmark."""
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK", dest="benchmark")
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(
            name, help=benchmark.summary, description=benchmark.summary, allow_abbrev=False
        )
        benchmark.add_flags(command)
        command.add_argument("--json", type=path_flag, help="also write the result to this file")
        command.add_argument(
            "--compile-cache",
            action="store_true",
            help="compile through JAX's cache on disk; else seconds of compilation are those of a "
            "first run",
        )


def run(args: argparse.Namespace) -> int:
    """Prints a table; progress goes to stderr."""
    # Everything that needs no library is checked before one is loaded.
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)
    if vars(args).get("profile") is not None:
        check_writable(args.profile, "--profile")

    from corl_jax.core import provenance

    # The benchmark prints its table itself, as soon as there is something to print.
    if not args.compile_cache:
        _turn_off_compilation_cache()
    values = BENCHMARKS[args.benchmark].run(args, _log)
    print(provenance.machine())

    # The file also says where its numbers are from.
    if args.json is not None:
        versions = provenance.versions()
        if values["against"] == "transformers":
            # One of them may be missing, which is then why theirs failed.
            theirs = [name for name in ("torch", "transformers") if importlib.util.find_spec(name)]
            versions |= provenance.versions_of(*theirs)
        values |= {"compile_cache": args.compile_cache}
        write_json(args.json, values | {"device": provenance.machine(), "versions": versions})
    return 0


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _turn_off_compilation_cache() -> None:
    """Makes JAX compile everything, so that first steps take as long as in a first run."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


def _add_decode_flags(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, SIZES, "tiny")
    _add_against(parser, "transformers", "nothing")
    parser.add_argument(
        "--samples",
        type=number(Samples),
        default=8,
        help="images; guidance doubles the rows (default: 8)",
    )
    parser.add_argument(
        "--group",
        type=number(Samples),
        default=1,
        help="images per prompt, which share its prefix (default: 1)",
    )
    parser.add_argument(
        "--devices", type=number(Devices), default=1, help=f"{DEVICES} (default: 1)"
    )
    parser.add_argument(
        "--repeats",
        type=number(Repeats),
        help="timings of each program (default: 5 at tiny, else 2)",
    )
    _add_profile(parser, "rollout")


def _run_decode(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.decode_speed import DecodeOptions, run_benchmark

    options = DecodeOptions(
        size=args.size,
        against=args.against,
        devices=args.devices,
        samples=args.samples,
        group_size=args.group,
        repeats=args.repeats,
        profile=args.profile,
    )
    return run_benchmark(options, log)


def _add_step_flags(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, SIZES, "tiny")
    _add_against(parser, "transformers", "nothing")

    # How much a step does.
    parser.add_argument(
        "--prompts", type=number(Prompts), default=2, help="of each task (default: 2)"
    )
    parser.add_argument(
        "--group", type=number(GroupSize), default=8, help="samples per prompt (default: 8)"
    )
    image_tokens = "of every image (default: those of the size)"
    parser.add_argument("--image-tokens", type=number(ImageTokens), help=image_tokens)
    parser.add_argument(
        "--devices", type=number(Devices), help=f"{DEVICES} (default: all there are)"
    )
    parser.add_argument(
        "--repeats",
        type=number(Repeats),
        help="steps of each program (default: 3 at dot, 5 at tiny, else 2)",
    )
    _add_profile(parser, "step")


def _run_step(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.step_speed import StepOptions, run_benchmark
    from corl_jax.planner.chips import CHIPS
    from corl_jax.planner.flops import call_flops

    options = StepOptions(
        size=args.size,
        against=args.against,
        prompts=args.prompts,
        group_size=args.group,
        image_tokens=args.image_tokens,
        devices=args.devices,
        repeats=args.repeats,
        profile=args.profile,
        count_flops=call_flops,
        peak_tflop_s={name: chip.tflop_s for name, chip in CHIPS.items()},
    )
    return run_benchmark(options, log)


def _add_text_flags(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, SIZES, "tiny")
    flags: list[tuple[str, Any, int, str]] = [
        ("--prompts", Prompts, 16, "questions"),
        ("--group", Samples, 8, "answers to each"),
        ("--length", Length, 576, "most tokens of an answer"),
        ("--median", Length, 80, "of the lengths, which are geometric"),
        ("--repeats", Repeats, 3, "timings of each program"),
    ]
    for flag, annotation, default, text in flags:
        text = f"{text} (default: {default})"
        parser.add_argument(flag, type=number(annotation), default=default, help=text)


def _run_text(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.text_speed import TextOptions, run_benchmark

    options = TextOptions(
        size=args.size,
        prompts=args.prompts,
        group_size=args.group,
        length=args.length,
        median=args.median,
        repeats=args.repeats,
    )
    return run_benchmark(options, log)


def _add_scaling_flags(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, "dot, tiny or mid", "tiny")
    parser.add_argument(
        "--devices",
        type=_numbers(Devices),
        default=(1, 2, 4, 8),
        help="numbers of devices to compare (default: 1,2,4,8)",
    )
    parser.add_argument(
        "--image-tokens",
        type=_numbers(ImageTokens),
        default=(16, 64, 144),
        help="image tokens to compare, beside those of the size (default: 16,64,144)",
    )
    parser.add_argument(
        "--repeats", type=number(Repeats), default=3, help="steps of each setting (default: 3)"
    )


def _run_scaling(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.scaling import ScalingOptions, run_benchmark

    options = ScalingOptions(args.size, args.devices, args.image_tokens, args.repeats)
    return run_benchmark(options, log)


def _add_kernel_flags(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, "heads and lengths of dot, tiny, mid or janus_pro_1b", "mid")
    parser.add_argument(
        "--repeats", type=number(Repeats), default=5, help="of every timing (default: 5)"
    )


def _run_kernels(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.attention_speed import KernelOptions, run_benchmark

    return run_benchmark(KernelOptions(args.size, args.repeats), log)


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="address of the records, as in config.data.source")
    flags: list[tuple[str, Any, int, str]] = [
        ("--image-size", ImageSize, 384, "side of the squares in pixels"),
        ("--batch-size", BatchSize, 8, "pictures of a step"),
        ("--workers", Workers, 4, "processes that decode and resize, as config.data.workers"),
        ("--steps", Repeats, 20, "steps to time"),
    ]
    for flag, annotation, default, text in flags:
        text = f"{text} (default: {default})"
        parser.add_argument(flag, type=number(annotation), default=default, help=text)
    _add_size(parser, SIZES, "tiny")


def _run_data(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.data_speed import DataOptions, run_benchmark

    options = DataOptions(
        source=args.source,
        image_size=args.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        size=args.size,
        steps=args.steps,
    )
    return run_benchmark(options, log)


def _add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path_flag, help="new folder on the disk to measure")
    flags: list[tuple[str, Any, float, str]] = [
        ("--gigabytes", Gigabytes, 1.0, "of the train state: parameters and two moments"),
        ("--frozen", Share, 0.2, "share of it that is not trained"),
        ("--rollout-seconds", Seconds, 10.0, "that the devices sample before the next update"),
    ]
    for flag, annotation, default, text in flags:
        text = f"{text} (default: {default:g})"
        parser.add_argument(flag, type=number(annotation), default=default, help=text)
    parser.add_argument(
        "--repeats", type=number(Repeats), default=2, help="checkpoints (default: 2)"
    )


def _run_checkpoint(args: argparse.Namespace, log: LogLine) -> dict[str, Any]:
    from corl_jax.bench.checkpoint_speed import CheckpointOptions, run_benchmark

    options = CheckpointOptions(
        folder=args.folder,
        gigabytes=args.gigabytes,
        frozen=args.frozen,
        rollout_seconds=args.rollout_seconds,
        repeats=args.repeats,
    )
    return run_benchmark(options, log)


def _add_size(parser: argparse.ArgumentParser, sizes: str, default: str) -> None:
    parser.add_argument("--size", default=default, help=f"{sizes} (default: {default})")


def _add_against(parser: argparse.ArgumentParser, *choices: str) -> None:
    text = "what to compare with (default: transformers)"
    parser.add_argument("--against", default="transformers", choices=choices, help=text)


def _add_profile(parser: argparse.ArgumentParser, unit: str) -> None:
    text = f"also write a JAX trace of one {unit} to this folder"
    parser.add_argument("--profile", type=path_flag, help=text)


def _numbers(annotation: Any) -> Callable[[str], tuple[int, ...]]:
    """The ``type`` of a flag with numbers that are separated by commas, such as 1,2,4."""
    parse = number(annotation)
    return lambda text: tuple(parse(part) for part in text.split(","))


class Benchmark(NamedTuple):
    """A benchmark on the command line."""

    summary: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, LogLine], dict[str, Any]]


# By the name on the command line; the summary is its help.
BENCHMARKS = {
    "decode": Benchmark(
        "Image tokens per second of a rollout, compared with transformers.",
        _add_decode_flags,
        _run_decode,
    ),
    "step": Benchmark(
        "Seconds of a training step (rollouts of both tasks, update), compared with transformers.",
        _add_step_flags,
        _run_step,
    ),
    "text": Benchmark(
        "Text decoding where rows end early, compared with all rows to the end.",
        _add_text_flags,
        _run_text,
    ),
    "scaling": Benchmark(
        "A training step on 1, 2, 4 and 8 fake CPU devices, and by the size of the step on one.",
        _add_scaling_flags,
        _run_scaling,
    ),
    "kernels": Benchmark(
        "Attention kernels of this backend, compared with the plain one.",
        _add_kernel_flags,
        _run_kernels,
    ),
    "checkpoint": Benchmark(
        "Seconds that a checkpoint holds the training loop for, and peak host memory.",
        _add_checkpoint_flags,
        _run_checkpoint,
    ),
    "data": Benchmark(
        "Pictures per second of one core, and the share of a training step spent waiting for them.",
        _add_data_flags,
        _run_data,
    ),
}
