"""NVIDIA GPUs as XLA's compiler describes them, so that it compiles for one that is not here.

The compiler for GPUs reads the chip's figures from a target, a text proto of XLA's message
``stream_executor.GpuTargetConfigProto``, and needs no GPU. Figures are what CUDA reports of each
chip; those of H100, H200 and A100 are also in XLA's collection of targets, ``target_config/specs``.
"""

from __future__ import annotations

import dataclasses

TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory_per_block}
  shared_memory_per_core: {shared_memory_per_core}
  threads_per_core_limit: {threads_per_core}
  core_count: {cores}
  fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {memory_bandwidth}
  l2_cache_size: {l2_cache_size}
  clock_rate_ghz: {clock_rate_ghz}
  device_memory_size: {memory_bytes}
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
runtime_version {{ major: {cuda_major} minor: 0 patch: 0 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{device_kind}"
"""
"""Limits that all of these chips share are written out; the compiler wants both versions set."""


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """What the compiler must know of a GPU.

    Attributes:
      device_kind: name of the device, as JAX has it.
      capability: CUDA's compute capability, major and minor.
      cores: streaming multiprocessors.
      fpus_per_core, threads_per_core: of each of them; the threads are those that it can hold.
      shared_memory_per_core, shared_memory_per_block: bytes; of a block, the most it may ask for.
      l2_cache_size: bytes.
      clock_rate_ghz: highest clock of the cores.
      memory_bandwidth: bytes per second of main memory.
      memory_bytes: of main memory, what CUDA says is there.
    """

    device_kind: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    threads_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_cache_size: int
    clock_rate_ghz: float
    memory_bandwidth: int
    memory_bytes: int

    def text(self, cuda_major: int) -> str:
        """The target as text, for a compiler of CUDA ``cuda_major``."""
        return TARGET.format(cuda_major=cuda_major, **dataclasses.asdict(self))


def _hopper(device_kind: str, memory_bandwidth: int, memory_bytes: int) -> GpuTarget:
    return GpuTarget(
        device_kind=device_kind,
        capability=(9, 0),
        cores=132,
        fpus_per_core=128,
        threads_per_core=2048,
        shared_memory_per_core=233472,
        shared_memory_per_block=232448,
        l2_cache_size=50 * 2**20,
        clock_rate_ghz=1.98,
        memory_bandwidth=memory_bandwidth,
        memory_bytes=memory_bytes,
    )


def _ampere(device_kind: str, memory_bandwidth: int, memory_bytes: int) -> GpuTarget:
    return GpuTarget(
        device_kind=device_kind,
        capability=(8, 0),
        cores=108,
        fpus_per_core=64,
        threads_per_core=2048,
        shared_memory_per_core=167936,
        shared_memory_per_block=166912,
        l2_cache_size=40 * 2**20,
        clock_rate_ghz=1.41,
        memory_bandwidth=memory_bandwidth,
        memory_bytes=memory_bytes,
    )


GPU_TARGETS = {
    "h100": _hopper("NVIDIA H100 80GB HBM3", 3_352_320_000_000, 84_929_347_584),
    "h200": _hopper("NVIDIA H200", 4_800_000_000_000, 151_397_597_184),
    "a100": _ampere("NVIDIA A100-SXM4-80GB", 2_039_040_000_000, 85_100_068_864),
    "a100_40": _ampere("NVIDIA A100-SXM4-40GB", 1_555_200_000_000, 42_331_013_120),
    # The L4 is no part of XLA's collection: NVIDIA's data sheet, and the limits of its capability
    # in the CUDA programming guide.
    "l4": GpuTarget(
        device_kind="NVIDIA L4",
        capability=(8, 9),
        cores=58,
        fpus_per_core=128,
        threads_per_core=1536,
        shared_memory_per_core=102400,
        shared_memory_per_block=101376,
        l2_cache_size=48 * 2**20,
        clock_rate_ghz=2.04,
        memory_bandwidth=300_096_000_000,
        memory_bytes=22_574 * 2**20,
    ),
}
"""Chip to its target."""
