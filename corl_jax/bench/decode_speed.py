"""Speed of image decoding, corl_jax compared with transformers.

Both have the same random weights and prompts and run in one process, in turn.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from typing import Any

from corl_jax.bench.decode_contenders import (
    check_torch,
    corl_jax_contender,
    transformers_contender,
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
from corl_jax.bench.workloads import get_model_config, make_image_prompts, write_random_policy
from corl_jax.core.errors import UserError
from corl_jax.core.runtime import set_cpu_devices
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig

PROMPTS = 8
UNIT = "image tokens/s"
# Default of ``--repeats`` by size.
REPEATS = {"dot": 2, "tiny": 5, "mid": 2, "janus_pro_1b": 2}


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """What ``corl bench decode`` runs.

    Attributes:
      size: of the model, a name in ``workloads.SIZES``.
      against: what corl_jax is compared with, ``transformers``.
      devices: on which corl_jax runs, each with prompts of its own; on a CPU they are threads.
      repeats: timings of each contender, or None for the default of the size.
      profile: folder for a JAX trace of one more rollout of corl_jax, or None.
    """

    size: str
    against: str
    devices: int
    repeats: int | None = None
    profile: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class DecodeTiming:
    """How fast each contender decodes.

    Attributes:
      corl_jax, transformers: median image tokens per second.
      seconds: by contender, those to ``load``, ``compile`` and decode ``pixels``.
      threads: number of torch's threads.
    """

    corl_jax: float
    transformers: float
    seconds: dict[str, dict[str, float]]
    threads: int | None

    @property
    def ratio(self) -> float:
        """How many times faster corl_jax is."""
        return self.corl_jax / self.transformers


def run_benchmark(options: DecodeOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table of both contenders.

    Returns:
      the values for JSON.

    Raises:
      UserError: an option out of range; torch is missing, or does not find the device of JAX.
    """
    if options.devices < 1 or PROMPTS % options.devices:
        raise UserError(
            f"--devices must divide the {PROMPTS} prompts; got {options.devices}. "
            "Choose 1, 2, 4 or 8"
        )

    # Looking up the model makes JAX look at its devices, so their number is set before.
    set_cpu_devices(options.devices)
    cfg = get_model_config(options.size)

    # Measure, then print. Keys of the JSON file stay as they are, whatever the names in the code.
    repeats = options.repeats or REPEATS[options.size]
    timing = time_decode(cfg, repeats, options.devices, log, options.profile)
    print(format_table(options.size, timing))
    return {
        "size": options.size,
        "against": options.against,
        "devices": options.devices,
        "ours": timing.corl_jax,
        "theirs": timing.transformers,
        "ratio": timing.ratio,
        "unit": UNIT,
        "seconds": {LABELS[name]: seconds for name, seconds in timing.seconds.items()},
        "torch_threads": timing.threads,
    }


def format_table(size: str, timing: DecodeTiming) -> str:
    """The table for people."""
    columns = ("load", "compile", "pixels")
    head = " ".join(f"{column + ' (s)':>12}" for column in columns)
    lines = [f"{size:14} {UNIT:>14} {head}"]

    # Only corl_jax compiles, so the other one has an empty cell there.
    rates = {CORL_JAX: timing.corl_jax, TRANSFORMERS: timing.transformers}
    labels = {CORL_JAX: "ours", TRANSFORMERS: "transformers"}
    for name, rate in rates.items():
        seconds = timing.seconds[name]
        cells = [
            f"{seconds[column]:12.2f}" if column in seconds else f"{'-':>12}" for column in columns
        ]
        lines.append(f"{labels[name]:14} {rate:14.1f} {' '.join(cells)}")

    lines.append(f"ratio {timing.ratio:.2f}, torch on {timing.threads} threads")
    return "\n".join(lines)


def time_decode(
    cfg: JanusConfig,
    repeats: int,
    devices: int,
    log: LogLine,
    profile: pathlib.Path | None = None,
) -> DecodeTiming:
    """Times both contenders in turn, ``repeats`` times each.

    Args:
      cfg: sizes of the model.
      repeats: timings of each contender.
      devices: see ``DecodeOptions``; a divisor of ``PROMPTS``.
      log: prints a line of progress.
      profile: see ``DecodeOptions``.

    Raises:
      UserError: torch is not installed, or does not find the device that JAX runs on.
    """
    # What is missing is reported before weights are made, which takes a while.
    check_torch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_random_policy(cfg, pathlib.Path(temporary))
        prompts = make_image_prompts(TextTokenizer.load(folder), PROMPTS)

        log("random weights are written; loading ours, compiling")
        contenders = {CORL_JAX: corl_jax_contender(folder, prompts, devices)}
        log("loading theirs, finding its best number of threads")
        contenders[TRANSFORMERS] = transformers_contender(folder, prompts)

    # Each contender samples once a round, and rests while the other one samples.
    sample_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    pixel_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(1, repeats + 1):
        for name, contender in contenders.items():
            time.sleep(REST_SECONDS)

            # The tokens that were sampled are then decoded to pixels.
            seconds, tokens = time_call(contender.sample)
            sample_seconds[name].append(seconds)
            seconds_of_pixels, _ = time_call(functools.partial(contender.decode_pixels, tokens))
            pixel_seconds[name].append(seconds_of_pixels)

            rate = tokens.size / seconds
            log(f"turn {round_number} of {repeats}, {LABELS[name]}: {rate:.1f} {UNIT}")

    write_trace(lambda: time_call(contenders[CORL_JAX].sample), profile)

    # Medians over the rounds.
    image_tokens = PROMPTS * cfg.image_tokens
    rates = {name: image_tokens / statistics.median(sample_seconds[name]) for name in contenders}
    all_seconds = {
        name: contender.seconds | {"pixels": statistics.median(pixel_seconds[name])}
        for name, contender in contenders.items()
    }

    threads = contenders[TRANSFORMERS].threads
    return DecodeTiming(rates[CORL_JAX], rates[TRANSFORMERS], all_seconds, threads)
