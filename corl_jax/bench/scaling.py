"""How a training step scales: over fake CPU devices with equal work for each, and with the size of the step.

In: a size and repeats. Out: a ``Row`` per setting, each measured by ``corl bench step --against nothing`` in a process
of its own, since the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from corl_jax.bench.timing import PHASES
from corl_jax.core.errors import UserError

PROMPTS, GROUP = 2, 8


@dataclasses.dataclass(frozen=True)
class Setting:
    """One step: ``devices``, and ``prompts`` of each task in all; ``image_tokens`` None is what the size has."""

    devices: int = 1
    prompts: int = PROMPTS
    group: int = GROUP
    image_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """Median seconds by phase of a setting."""

    setting: Setting
    seconds: dict[str, float]

    @property
    def rate(self) -> float:
        """Samples per second: pictures and answers."""
        return 2 * self.setting.prompts * self.setting.group / self.seconds["total"]


def over_devices(counts: tuple[int, ...]) -> list[Setting]:
    """``PROMPTS`` prompts for each device."""
    return [Setting(devices=n, prompts=n * PROMPTS) for n in counts]


def over_sizes(image_tokens: tuple[int, ...]) -> list[Setting]:
    """On one device: twice and half the samples, twice and four times the prompts, and pictures of other sizes."""
    return [
        Setting(),
        *(Setting(group=n) for n in (GROUP // 2, 2 * GROUP)),
        *(Setting(prompts=n) for n in (2 * PROMPTS, 4 * PROMPTS)),
        *(Setting(image_tokens=n) for n in image_tokens),
    ]


def overhead(row: Row, one: Row) -> float:
    """Time over that of ``one`` device times the number of devices: 1 where sharding costs nothing.

    Fake devices share the cores that one device has to itself, so equal work for each is that many times the work.
    """
    return row.seconds["total"] / (one.seconds["total"] * row.setting.devices)


def measure(
    size: str, settings: list[Setting], repeats: int, log: Callable[[str], None]
) -> list[Row]:
    """Runs every setting, one after the other.

    Raises:
      UserError: a child failed; with its last line.
    """
    rows = []
    for setting in settings:
        rows.append(Row(setting, child(size, setting, repeats)))
        log(f"{setting}: {rows[-1].seconds['total']:.3f} s")
    return rows


def child(size: str, setting: Setting, repeats: int) -> dict[str, float]:
    """Seconds by phase of ``setting`` on fake CPU devices in a process of its own."""
    with tempfile.TemporaryDirectory() as where:
        out = pathlib.Path(where) / "step.json"
        line = [
            sys.executable,
            "-m",
            "corl_jax.commands.cli",
            "bench",
            "step",
            "--against",
            "nothing",
            "--size",
            size,
        ]
        line += [
            "--repeats",
            str(repeats),
            "--prompts",
            str(setting.prompts),
            "--group",
            str(setting.group),
        ]
        line += ["--devices", str(setting.devices), "--json", str(out)]
        if setting.image_tokens is not None:
            line += ["--image-tokens", str(setting.image_tokens)]
        ended = subprocess.run(
            line, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
            raise UserError(f"the step of {setting} ended with code {ended.returncode}: {last}")
        phases = json.loads(out.read_text("utf-8"))["phases"]
    return {phase: phases[phase]["ours"] for phase in PHASES}
