"""How a training step scales: over fake CPU devices with equal work for each, and with its size.

The number of devices is fixed when JAX starts, so every step is measured by
``corl bench step --against nothing`` in a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from corl_jax.bench.timing import CORL_JAX, LABELS, PHASES, LogLine
from corl_jax.bench.workloads import get_model_config, with_image_tokens
from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError

# Of the step that the others are compared with.
PROMPTS, GROUP_SIZE = 2, 8


@dataclasses.dataclass(frozen=True)
class ScalingOptions:
    """What ``corl bench scaling`` runs.

    Attributes:
      size: of the model, a name in ``workloads.SIZES``.
      devices: numbers of devices; the first one must be 1.
      image_tokens: numbers of image tokens to try on one device.
      repeats: steps of each setting.
    """

    size: str
    devices: tuple[int, ...]
    image_tokens: tuple[int, ...]
    repeats: int


@dataclasses.dataclass(frozen=True)
class StepSetting:
    """A training step.

    Attributes:
      devices: over which its rows are spread.
      prompts: of each task, on all devices together.
      group_size: samples per prompt.
      image_tokens: of an image; None is what the size of the model has.
    """

    devices: int = 1
    prompts: int = PROMPTS
    group_size: int = GROUP_SIZE
    image_tokens: int | None = None

    def flags(self) -> list[str]:
        """Flags of ``corl bench step`` for this setting."""
        flags = ["--devices", str(self.devices), "--prompts", str(self.prompts)]
        flags += ["--group", str(self.group_size)]
        if self.image_tokens is not None:
            flags += ["--image-tokens", str(self.image_tokens)]
        return flags


@dataclasses.dataclass(frozen=True)
class SettingTiming:
    """Median seconds of a setting by phase."""

    setting: StepSetting
    seconds: dict[str, float]

    @property
    def rate(self) -> float:
        """Samples per second, images and answers."""
        return 2 * self.setting.prompts * self.setting.group_size / self.seconds["total"]

    def as_json(self) -> dict[str, Any]:
        """The entry in the file of ``--json``."""
        return {
            "devices": self.setting.devices,
            "prompts": self.setting.prompts,
            "group": self.setting.group_size,
            "image_tokens": self.setting.image_tokens,
            "seconds": self.seconds,
            "samples_per_second": self.rate,
        }


def run_benchmark(options: ScalingOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table over devices and one over sizes of the step.

    Returns:
      the values for JSON. ``ours`` and ``theirs`` are samples per second, on most devices and on
      one.

    Raises:
      UserError: an option out of range, or a child process failed.
    """
    # Values are checked here, since a child process would fail only after some minutes.
    cfg = get_model_config(options.size)
    for count in options.image_tokens:
        with_image_tokens(cfg, count)

    if options.devices[0] != 1:
        raise UserError(
            "--devices must start with 1, with which the others are compared; got "
            f"{options.devices[0]}"
        )

    # Equal work for each device. The table is printed before the second one is measured.
    over_devices = time_settings(
        options.size, settings_over_devices(options.devices), options.repeats, log
    )
    single = over_devices[0]
    print(f"{'devices':>7} {'prompts':>8} {'s/step':>8} {'samples/s':>10} {'overhead':>9}")
    for timing in over_devices:
        cells = f"{timing.setting.devices:7} {timing.setting.prompts:8} "
        cells += f"{timing.seconds['total']:8.3f} {timing.rate:10.1f}"
        print(f"{cells} {overhead(timing, single):9.2f}")

    print(
        "overhead: time / (devices x time on one); the devices are threads on the same cores, "
        "so 1 is the best"
    )

    # Steps of other sizes on one device.
    over_sizes = time_settings(
        options.size, settings_over_sizes(options.image_tokens), options.repeats, log
    )

    print(f"{'prompts':>7} {'group':>8} {'image tokens':>13} {'s/step':>8} {'samples/s':>10}")
    for timing in over_sizes:
        image_tokens = timing.setting.image_tokens or cfg.image_tokens
        cells = f"{timing.setting.prompts:7} {timing.setting.group_size:8} {image_tokens:13}"
        print(f"{cells} {timing.seconds['total']:8.3f} {timing.rate:10.1f}")

    # The rate on most devices is compared with the rate on one.
    most = over_devices[-1]
    device_entries = [
        timing.as_json() | {"overhead": overhead(timing, single)} for timing in over_devices
    ]
    return {
        "size": options.size,
        "against": "one device",
        "ours": most.rate,
        "theirs": single.rate,
        "ratio": most.rate / single.rate,
        "unit": "samples/s",
        "devices": device_entries,
        "sizes": [timing.as_json() for timing in over_sizes],
    }


def settings_over_devices(counts: Sequence[int]) -> list[StepSetting]:
    """``PROMPTS`` prompts for each device."""
    return [StepSetting(devices=count, prompts=count * PROMPTS) for count in counts]


def settings_over_sizes(image_tokens: Sequence[int]) -> list[StepSetting]:
    """On one device: half and twice the group size, more prompts, and images of other sizes."""
    return [
        # The step of ``settings_over_devices`` on one device, for comparison.
        StepSetting(),
        *(StepSetting(group_size=size) for size in (GROUP_SIZE // 2, 2 * GROUP_SIZE)),
        *(StepSetting(prompts=count) for count in (2 * PROMPTS, 4 * PROMPTS)),
        *(StepSetting(image_tokens=count) for count in image_tokens),
    ]


def overhead(timing: SettingTiming, single: SettingTiming) -> float:
    """Time over that of a ``single`` device times the number of devices: 1 if sharding is free.

    Fake devices share the cores that a single device has to itself, so equal work for each of them
    is that many times the work.
    """
    return timing.seconds["total"] / (single.seconds["total"] * timing.setting.devices)


def time_settings(
    size: str, settings: Sequence[StepSetting], repeats: int, log: LogLine
) -> list[SettingTiming]:
    """Measures every setting, one after the other.

    Raises:
      UserError: a child process failed.
    """
    timings = []
    for setting in settings:
        seconds = time_in_child_process(size, setting, repeats)
        timings.append(SettingTiming(setting, seconds))
        log(f"{' '.join(setting.flags())}: {seconds['total']:.3f} s")
    return timings


def time_in_child_process(size: str, setting: StepSetting, repeats: int) -> dict[str, float]:
    """Seconds of ``setting`` by phase, on fake CPU devices.

    Raises:
      UserError: the process failed; the message has the last line of what it printed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # The same command that a user runs, so its numbers can be had one by one.
        result_file = pathlib.Path(temporary) / "step.json"
        command = [sys.executable, "-m", "corl_jax.commands.cli", "bench", "step"]
        command += ["--against", "nothing", "--size", size, "--repeats", str(repeats)]
        command += [*setting.flags(), "--json", str(result_file)]

        # Fake devices exist on a CPU only.
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = subprocess.run(command, env=environment, capture_output=True, text=True)

        # Errors of the command are one line, which is the last one.
        if process.returncode:
            lines = process.stderr.strip().splitlines()
            last_line = lines[-1] if lines else "no output"
            raise UserError(
                f"corl bench step {' '.join(setting.flags())} ended with code "
                f"{process.returncode}: {last_line}"
            )

        phases = JsonObject.read(result_file).block("phases")
    return {phase: phases.block(phase).number(LABELS[CORL_JAX]) for phase in PHASES}
