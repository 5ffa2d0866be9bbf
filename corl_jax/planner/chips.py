"""Chips that the planner knows, and slices of them as devices to compile for.

Figures per chip are from the Cloud TPU documentation (system architecture of each version) and from
NVIDIA's data sheets (H100 SXM, H200 SXM, A100 SXM, L4). Links between nodes are those of NVIDIA's
DGX of each chip, and of Google Cloud's machines with L4.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax

from corl_jax.core.errors import UserError
from corl_jax.planner.compilers import check_libtpu, cuda_major_version
from corl_jax.planner.gpu_targets import GPU_TARGETS


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and peak rates of a chip.

    Attributes:
      name: as in ``--topology``.
      hbm_gib: main memory in GiB.
      hbm_gb_s: bandwidth of main memory in GB/s.
      tflop_s: bfloat16 matrix products in TFLOP/s.
      link_gb_s: what it sends over all its links in GB/s.
      node_link_gb_s: what a node of GPUs sends to others in GB/s; 0 for TPUs, which have no nodes.
    """

    name: str
    hbm_gib: float
    hbm_gb_s: float
    tflop_s: float
    link_gb_s: float
    node_link_gb_s: float = 0.0


def _gpu(name: str, tflop_s: float, link_gb_s: float, node_link_gb_s: float) -> Chip:
    """A GPU, whose memory its target has."""
    target = GPU_TARGETS[name]
    hbm_gib, hbm_gb_s = target.memory_bytes / 2**30, target.memory_bandwidth / 1e9
    return Chip(name, hbm_gib, hbm_gb_s, tflop_s, link_gb_s, node_link_gb_s)


# Name, GiB, GB/s of memory, TFLOP/s, GB/s over links; GPUs: TFLOP/s, GB/s over links, of a node.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32, 1228, 275, 300),
        Chip("v5e", 16, 819, 197, 200),
        Chip("v5p", 95, 2765, 459, 600),
        Chip("v6e", 32, 1640, 918, 400),
        _gpu("h100", 989, 450, 400),
        _gpu("h200", 989, 450, 400),
        _gpu("a100", 312, 300, 200),
        _gpu("a100_40", 312, 300, 200),
        _gpu("l4", 121, 32, 12.5),
    )
}
EXAMPLES = "v5e:2x4, v6e:8x8, v5p:4x4x4, h100:8, h100:2x8 (nodes x GPUs)"

MAX_GPUS_PER_NODE = 8

GPU_OPTIONS: Sequence[dict[str, str | bool | int]] = (
    {"xla_gpu_autotune_level": 0},
    {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
)
"""No GPU is here to time kernels on, so that the compiler must take its own first choices. Where its
first choice of tiles for a product is one that it cannot compile, products are left to cuBLAS."""

POOL_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Environment variables that say which share of a GPU's memory JAX takes; the second is older."""

DEFAULT_POOL_SHARE = 0.75
"""That share where neither is set."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to plan for.

    Attributes:
      name: value of ``--topology``.
      chip: of each device.
      count: number of devices.
      devices: for the mesh.
      usable_gib: memory of a device that JAX may take.
      compiler_options: options of the compiler besides its defaults, to be tried in turn.
    """

    name: str
    chip: Chip
    count: int
    devices: Sequence[jax.Device]
    usable_gib: float
    compiler_options: Sequence[dict[str, str | bool | int]] = ({},)


def chip_count(shape: str) -> int:
    """Chips in a slice of this shape: ``4x8`` has 32."""
    return math.prod(int(size) for size in shape.split("x"))


def open_slice(name: str) -> Slice:
    """A slice of TPUs ``v5e:4x8`` (chips along each axis), or GPUs ``h100:8``, ``h100:2x8``.

    Raises:
      UserError: another name, a shape that does not exist, or no compiler for the chip.
    """
    # A chip and the shape of the slice.
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match.group(1) not in CHIPS:
        raise UserError(
            f"--topology must be a chip ({', '.join(CHIPS)}) and a shape; got {name!r}. "
            f"Choose for example one of {EXAMPLES}"
        )
    chip, shape = CHIPS[match.group(1)], match.group(2)

    # This process itself computes on the CPU, so that an accelerator of this machine stays free.
    jax.config.update("jax_platforms", "cpu")
    return _open_gpus(name, chip, shape) if chip.name in GPU_TARGETS else _open_tpus(name, chip)


def _open_gpus(name: str, chip: Chip, shape: str) -> Slice:
    """GPUs of one node or of several.

    Raises:
      UserError: a shape that no node has, or no plug-in of CUDA for this JAX.
    """
    # One number is a node; of two, the first counts nodes.
    nodes, _, gpus = shape.rpartition("x")
    if "x" in nodes or not 1 <= int(gpus) <= MAX_GPUS_PER_NODE or int(nodes or 1) < 1:
        raise UserError(
            f"--topology must have at most {MAX_GPUS_PER_NODE} GPUs in a node, as in "
            f"{chip.name}:8, or {chip.name}:2x8 for two nodes; got {name!r}"
        )
    target = GPU_TARGETS[chip.name].text(cuda_major_version(name))

    from jax.experimental import topologies

    # XLA counts partitions, nodes and GPUs of a node.
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x{nodes or 1}x{gpus}"
    )

    # Between nodes a ring is as fast as a node's way out, all of whose links it uses.
    count = len(topology.devices)
    if count > int(gpus):
        link_gb_s = min(chip.link_gb_s, chip.node_link_gb_s)
        chip = dataclasses.replace(chip, link_gb_s=link_gb_s)

    usable_gib = pool_share() * chip.hbm_gib
    return Slice(name, chip, count, topology.devices, usable_gib, GPU_OPTIONS)


def pool_share() -> float:
    """The share of a GPU's memory that JAX takes, by the environment of this process.

    Raises:
      UserError: a variable that is no share.
    """
    for name in POOL_VARIABLES:
        text = os.environ.get(name, "")
        if text and not re.fullmatch(r"0?\.\d*[1-9]\d*|1(\.0*)?", text):
            raise UserError(f"{name} must be a share of at most 1, such as .95; got {text!r}")
        if text:
            return float(text)
    return DEFAULT_POOL_SHARE


def _open_tpus(name: str, chip: Chip) -> Slice:
    """A slice of TPUs.

    Raises:
      UserError: libtpu does not know the slice, is not installed or of another release.
    """
    check_libtpu(name)
    count, devices = chip_count(name.partition(":")[2]), _tpu_devices(name)

    # A v4 chip is two devices to the compiler, each with half of everything.
    devices_per_chip = len(devices) // count
    if devices_per_chip > 1:
        figures = (getattr(chip, field.name) for field in dataclasses.fields(chip)[1:])
        chip = Chip(chip.name, *(figure / devices_per_chip for figure in figures))
    return Slice(name, chip, len(devices), devices, chip.hbm_gib)


def _tpu_devices(name: str) -> Sequence[jax.Device]:
    """Abstract devices of a TPU slice.

    Raises:
      UserError: libtpu does not know the slice.
    """
    # libtpu reads these when it is loaded. No metadata server is asked, since the slice is not this
    # machine, and another process may use libtpu meanwhile, since no chip is touched. The type of
    # accelerator must be set, but is not used.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    shape = name.partition(":")[2]
    # One chip is less than a host of the smallest slice has.
    options = {"chips_per_host_bounds": (1, 1, 1)} if set(shape.split("x")) == {"1"} else {}
    try:
        return topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology must be a slice that libtpu knows; got {name}, of which it says: {message}"
        ) from None
