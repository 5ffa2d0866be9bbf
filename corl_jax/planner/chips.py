"""What chips have, and slices of them to compile for. In: a topology's name; out: a chip and abstract devices.

Figures per chip: Cloud TPU documentation, system architecture of each version, and NVIDIA's data sheet of the H100 SXM.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from corl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory in GiB, its bandwidth in GB/s, bf16 peak in TFLOP/s, and what it sends over its links in GB/s."""

    name: str
    hbm_gib: float
    hbm_gb_s: float
    tflop_s: float
    link_gb_s: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32, 1228, 275, 300),
        Chip("v5e", 16, 819, 197, 200),
        Chip("v5p", 95, 2765, 459, 600),
        Chip("v6e", 32, 1640, 918, 400),
        Chip("h100", 79, 3350, 989, 450),
    )
}
EXAMPLES = "v5e:2x4, v6e:8x8, v5p:4x4x4, h100:8"


@dataclasses.dataclass(frozen=True)
class Slice:
    """``count`` devices to plan for; ``compiled`` is false where they stand in for ones that have no compiler here."""

    name: str
    chip: Chip
    count: int
    devices: Sequence[Any]
    compiled: bool


def chips_in(shape: str) -> int:
    """Of a slice's shape: ``4x8`` has 32."""
    return math.prod(int(size) for size in shape.split("x"))


def open_slice(name: str) -> Slice:
    """``v5e:4x8`` (chips along each axis of the slice) or ``h100:8``.

    Raises:
      UserError: another name, a shape that does not exist, or a TPU without ``libtpu``.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found or found.group(1) not in CHIPS:
        raise UserError(
            f"--topology={name!r} is unknown; expected a chip ({', '.join(CHIPS)}) and a shape: {EXAMPLES}"
        )
    chip, count = CHIPS[found.group(1)], chips_in(found.group(2))
    if chip.name.startswith("h"):
        jax.config.update("jax_num_cpu_devices", count)  # to trace and place, never to compile
        return Slice(name, chip, count, jax.devices("cpu")[:count], False)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={name} is compiled by libtpu, which is not installed; pip install 'corl_jax[tpu]'"
        )
    jax.config.update(
        "jax_platforms", "cpu"
    )  # where this process itself computes; a TPU of this host stays free
    os.environ.setdefault(
        "TPU_SKIP_MDS_QUERY", "1"
    )  # no metadata server is asked: the slice is not this machine
    os.environ.setdefault(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
    )  # and no chip of it is touched, so nobody need wait
    os.environ.setdefault(
        "TPU_ACCELERATOR_TYPE", "v5litepod-8"
    )  # read, and complained about, but not used
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(
            f"--topology={name} is no slice to libtpu: {' '.join(str(error).split())[:200]}"
        ) from None
    cores = len(devices) // count  # a v4 chip is two devices to the compiler
    if cores > 1:
        chip = Chip(
            chip.name,
            *(getattr(chip, field.name) / cores for field in dataclasses.fields(chip)[1:]),
        )
    return Slice(name, chip, len(devices), devices, True)
