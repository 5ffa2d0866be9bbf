"""Chips that the planner knows, and slices of them as devices to compile for.

Figures per chip are from the Cloud TPU documentation (system architecture of each version) and from
NVIDIA's data sheet of the H100 SXM.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax

from corl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and peak rates of a chip.

    Attributes:
      name: as in ``--topology``.
      hbm_gib: main memory in GiB.
      hbm_gb_s: bandwidth of main memory in GB/s.
      tflop_s: bfloat16 matrix products in TFLOP/s.
      link_gb_s: what it sends over all its links in GB/s.
    """

    name: str
    hbm_gib: float
    hbm_gb_s: float
    tflop_s: float
    link_gb_s: float


# Name, GiB, GB/s of memory, TFLOP/s, GB/s over links.
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
    """Devices to plan for.

    Attributes:
      name: value of ``--topology``.
      chip: of each device.
      count: number of devices.
      devices: for the mesh; CPU devices in place of GPUs.
      has_compiler: whether programs can be compiled for the devices; else they are only traced.
    """

    name: str
    chip: Chip
    count: int
    devices: Sequence[jax.Device]
    has_compiler: bool


def chip_count(shape: str) -> int:
    """Chips in a slice of this shape: ``4x8`` has 32."""
    return math.prod(int(size) for size in shape.split("x"))


def open_slice(name: str) -> Slice:
    """The slice ``v5e:4x8`` (chips along each axis of the slice), or ``h100:8``.

    Raises:
      UserError: another name, a shape that does not exist, or a TPU without ``libtpu``.
    """
    # A chip and the shape of the slice.
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match.group(1) not in CHIPS:
        raise UserError(
            f"--topology must be a chip ({', '.join(CHIPS)}) and a shape; got {name!r}. "
            f"Choose for example one of {EXAMPLES}"
        )
    chip, count = CHIPS[match.group(1)], chip_count(match.group(2))

    # For GPUs, CPU devices serve to trace programs and to shard arrays, never to compile.
    if chip.name.startswith("h"):
        jax.config.update("jax_num_cpu_devices", count)
        return Slice(name, chip, count, jax.devices("cpu")[:count], has_compiler=False)

    # For TPUs, libtpu compiles on any machine.
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={name} needs libtpu to compile for it, which is not installed; "
            "pip install 'corl_jax[tpu]'"
        )
    devices = _tpu_devices(name)

    # A v4 chip is two devices to the compiler, each with half of everything.
    devices_per_chip = len(devices) // count
    if devices_per_chip > 1:
        figures = (getattr(chip, field.name) for field in dataclasses.fields(chip)[1:])
        chip = Chip(chip.name, *(figure / devices_per_chip for figure in figures))
    return Slice(name, chip, len(devices), devices, has_compiler=True)


def _tpu_devices(name: str) -> Sequence[jax.Device]:
    """Abstract devices of a TPU slice.

    Raises:
      UserError: libtpu does not know the slice.
    """
    # This process itself computes on the CPU, so that a TPU of this machine stays free.
    jax.config.update("jax_platforms", "cpu")

    # libtpu reads these when it is loaded. No metadata server is asked, since the slice is not this
    # machine, and another process may use libtpu meanwhile, since no chip is touched. The type of
    # accelerator must be set, but is not used.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology must be a slice that libtpu knows; got {name}, of which it says: {message}"
        ) from None
