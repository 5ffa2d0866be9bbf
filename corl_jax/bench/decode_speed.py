"""Speed of image decoding, corl_jax alone or compared with transformers.

corl_jax is timed and its speed printed before transformers is loaded, so that it is known whatever
happens there. Then both run in one process, in turn, with the same random weights and prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from corl_jax.bench.decode_contenders import (
    DecodeContender,
    check_torch,
    corl_jax_contender,
    transformers_contender,
)
from corl_jax.bench.device_rates import (
    DeviceRates,
    least_decode_bytes,
    measure_device_rates,
    shares_memory,
)
from corl_jax.bench.timing import (
    CORL_JAX,
    LABELS,
    REST_SECONDS,
    TRANSFORMERS,
    LogLine,
    time_call,
    write_trace,
)
from corl_jax.bench.workloads import (
    PROMPT_TOKENS,
    get_model_config,
    make_image_prompts,
    make_random_policy,
    write_policy,
)
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.runtime import set_cpu_devices
from corl_jax.models.janus.config import JanusConfig

UNIT = "image tokens/s"
# Default of ``--repeats`` by size.
REPEATS = {"dot": 2, "tiny": 5, "mid": 2, "janus_pro_1b": 2}
COLUMNS = ("load", "compile", "pixels")


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """What ``corl bench decode`` runs.

    Attributes:
      size: of the model, a name in ``workloads.SIZES``.
      against: what corl_jax is compared with, ``transformers`` or ``nothing``.
      devices: on which corl_jax runs, each with prompts of its own; on a CPU they are threads.
      samples: images; guidance doubles the rows.
      group_size: images per prompt, which share its prefix in corl_jax.
      repeats: timings of each contender, or None for the default of the size.
      profile: folder for a JAX trace of one more rollout of corl_jax, or None.
    """

    size: str
    against: str
    devices: int
    samples: int = 8
    group_size: int = 1
    repeats: int | None = None
    profile: pathlib.Path | None = None

    def __post_init__(self) -> None:
        if self.samples % self.group_size:
            raise UserError(
                f"--group must divide the {self.samples} samples; got {self.group_size}. "
                "Choose a divisor of --samples"
            )
        if self.devices < 1 or self.prompts % self.devices:
            raise UserError(
                f"--devices must divide the {self.prompts} prompts; got {self.devices}. Choose a "
                "divisor of --samples (by --group)"
            )

    @property
    def prompts(self) -> int:
        """Different prompts."""
        return self.samples // self.group_size

    @property
    def rounds(self) -> int:
        """Timings of each contender."""
        return self.repeats or REPEATS[self.size]

    @property
    def with_torch(self) -> bool:
        """Whether transformers runs too."""
        return self.against == TRANSFORMERS


@dataclasses.dataclass(frozen=True)
class DecodeTiming:
    """How fast each contender decodes.

    Attributes:
      rates: median image tokens per second by contender.
      seconds: by contender, those to ``load`` (corl_jax: to make) the weights, to ``compile``, and
        to decode ``pixels``.
      least_bytes: see ``device_rates.least_decode_bytes``.
      threads: number of torch's threads, or None without torch.
      theirs_error: why transformers has no rate though it was to run, on one line.
    """

    rates: dict[str, float]
    seconds: dict[str, dict[str, float]]
    least_bytes: float
    threads: int | None = None
    theirs_error: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster corl_jax is; None where it ran alone."""
        if TRANSFORMERS not in self.rates:
            return None
        return self.rates[CORL_JAX] / self.rates[TRANSFORMERS]

    def bandwidth(self, samples: int) -> float:
        """GB/s of corl_jax's decoding on each device, were it to read the least bytes alone."""
        return self.least_bytes * self.rates[CORL_JAX] / samples / 1e9


def run_benchmark(options: DecodeOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table.

    Returns:
      the values for JSON; ``theirs``, ``ratio`` and shares are None where there are none.

    Raises:
      UserError: an unknown size; torch is missing.
    """
    # Looking up the model makes JAX look at its devices, so their number is set before.
    set_cpu_devices(options.devices)
    cfg = get_model_config(options.size)
    if options.with_torch:
        check_torch()

    rates = measure_device_rates()
    timing = time_decode(cfg, options, rates, log)
    return entries(options, cfg, timing, rates)


def time_decode(
    cfg: JanusConfig, options: DecodeOptions, rates: DeviceRates, log: LogLine
) -> DecodeTiming:
    """Times corl_jax, prints its speed, then times both contenders in turn.

    Args:
      cfg: sizes of the model.
      options: all but ``size`` are used, beside the default of ``rounds``.
      rates: of the device.
      log: prints a line of progress.
    """
    # Make the weights where they are used.
    start = time.perf_counter()
    policy = make_random_policy(cfg)
    seconds_to_make = time.perf_counter() - start
    log(f"random weights are made in {seconds_to_make:.1f} s; compiling")

    # corl_jax alone.
    prompts = make_image_prompts(policy.tokenizer, options.prompts)
    ours = corl_jax_contender(policy, prompts, options.group_size, options.devices)
    ours = dataclasses.replace(ours, seconds={"load": seconds_to_make} | ours.seconds)
    least_bytes = least_decode_bytes(
        policy.params,
        cfg,
        options.prompts // options.devices,
        options.group_size,
        PROMPT_TOKENS,
    )
    alone = time_in_turns({CORL_JAX: ours}, options.rounds, log)
    timing = dataclasses.replace(alone, least_bytes=least_bytes)
    print(format_ours(options, timing, rates), flush=True)
    write_trace(lambda: time_call(ours.sample), options.profile)
    if not options.with_torch:
        return timing

    # Then both, from the same weights.
    try:
        with tempfile.TemporaryDirectory() as temporary:
            log("writing the weights, loading theirs, finding its best number of threads")
            folder = write_policy(policy, pathlib.Path(temporary))
            theirs = transformers_contender(folder, prompts, options.group_size)
        turns = time_in_turns({CORL_JAX: ours, TRANSFORMERS: theirs}, options.rounds, log)
    # Whatever goes wrong in torch or transformers, what is known of corl_jax stays.
    except Exception as error:
        message = describe_error(error)
        print(f"transformers failed: {message}", flush=True)
        return dataclasses.replace(timing, theirs_error=message)

    timing = dataclasses.replace(turns, least_bytes=least_bytes)
    print(format_turns(timing), flush=True)
    return timing


def time_in_turns(
    contenders: Mapping[str, DecodeContender], rounds: int, log: LogLine
) -> DecodeTiming:
    """Each contender samples once a round, and rests while the other one samples."""
    sample_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    sampled = {}
    for round_number in range(1, rounds + 1):
        for name, contender in contenders.items():
            time.sleep(REST_SECONDS)
            seconds, tokens = time_call(contender.sample)
            sample_seconds[name].append(seconds)
            sampled[name] = tokens
            rate = tokens.size / seconds
            log(f"turn {round_number} of {rounds}, {LABELS[name]}: {rate:.1f} {UNIT}")

    # The last tokens are then decoded to pixels; the first call compiles, or is slower.
    all_seconds = {}
    for name, contender in contenders.items():
        decode_pixels = functools.partial(contender.decode_pixels, sampled[name])
        time_call(decode_pixels)
        pixel_seconds = [time_call(decode_pixels)[0] for _ in range(rounds)]
        all_seconds[name] = contender.seconds | {"pixels": statistics.median(pixel_seconds)}

    rates = {
        name: sampled[name].size / statistics.median(seconds)
        for name, seconds in sample_seconds.items()
    }
    threads = contenders[TRANSFORMERS].threads if TRANSFORMERS in contenders else None
    return DecodeTiming(rates, all_seconds, 0.0, threads)


def entries(
    options: DecodeOptions, cfg: JanusConfig, timing: DecodeTiming, rates: DeviceRates
) -> dict[str, Any]:
    """The values for JSON. Keys stay as they are, whatever the names in the code."""
    return {
        "size": options.size,
        "against": options.against,
        "devices": options.devices,
        "samples": options.samples,
        "group": options.group_size,
        "ours": timing.rates[CORL_JAX],
        "theirs": timing.rates.get(TRANSFORMERS),
        "ratio": timing.ratio,
        "unit": UNIT,
        "images_per_second": timing.rates[CORL_JAX] / cfg.image_tokens,
        "seconds": {LABELS[name]: seconds for name, seconds in timing.seconds.items()},
        "torch_threads": timing.threads,
        "theirs_error": timing.theirs_error,
        "device_rates": rates.as_json(),
        "least_bytes_per_token_step": timing.least_bytes,
        "bandwidth_share": bandwidth_share(options, timing, rates),
    }


def bandwidth_share(
    options: DecodeOptions, timing: DecodeTiming, rates: DeviceRates
) -> float | None:
    """Share of the measured bandwidth that decoding the least bytes takes; None on threads."""
    if shares_memory(options.devices):
        return None
    return timing.bandwidth(options.samples) / rates.copy_gb_s


def format_ours(options: DecodeOptions, timing: DecodeTiming, rates: DeviceRates) -> str:
    """The table of corl_jax, and its share of the bandwidth."""
    head = " ".join(f"{column + ' (s)':>12}" for column in COLUMNS)
    lines = [f"{options.size:14} {UNIT:>14} {head}", format_row(timing, CORL_JAX, "ours")]
    lines.append(
        f"{options.samples} samples, {options.prompts} prompts x {options.group_size}; {rates}"
    )

    share = bandwidth_share(options, timing, rates)
    if share is not None:
        lines.append(
            f"least reads of a token step {timing.least_bytes / 1e6:.1f} MB, "
            f"{timing.bandwidth(options.samples):.1f} GB/s, {share:.0%} of the copy bandwidth"
        )
    return "\n".join(lines)


def format_turns(timing: DecodeTiming) -> str:
    """The row of transformers, and the ratio of the turns."""
    ours = timing.rates[CORL_JAX]
    return (
        f"{format_row(timing, TRANSFORMERS, 'transformers')}\n"
        f"ratio {timing.ratio:.2f} (in turns, ours {ours:.1f}), torch on {timing.threads} threads"
    )


def format_row(timing: DecodeTiming, name: str, label: str) -> str:
    """A line of the table; only corl_jax compiles, so the other one has an empty cell there."""
    seconds = timing.seconds[name]
    cells = [
        f"{seconds[column]:12.2f}" if column in seconds else f"{'-':>12}" for column in COLUMNS
    ]
    return f"{label:14} {timing.rates[name]:14.1f} {' '.join(cells)}"
