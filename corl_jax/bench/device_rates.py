"""What the device can do at best: measured copy bandwidth and matmul rate, and the least bytes that
decoding moves.

Benchmarks print their shares of these: decoding that of the bandwidth, the update that of the
matmul rate (model FLOPs utilisation, MFU).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.runtime import compute_dtype
from corl_jax.core.trees import matches
from corl_jax.core.types import Params
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import JANUS_IMAGE_DECODE_PATTERNS

# Calls that are timed together, so that starting them costs next to nothing, and how often.
CALLS, REPEATS = 8, 3
# Bytes of the array that is copied, and rows of the square matrices that are multiplied, on
# accelerators and on a CPU. Both are much larger than caches.
COPY_BYTES, MATMUL_SIZE = 2**30, 8192
CPU_COPY_BYTES, CPU_MATMUL_SIZE = 2**27, 1024

# How JAX names devices, and the chip's name in ``planner.chips``.
CHIP_NAMES = {
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA A100": "a100",
    "NVIDIA L4": "l4",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


@dataclasses.dataclass(frozen=True)
class DeviceRates:
    """Rates of JAX's first device.

    Attributes:
      copy_gb_s: GB/s, bytes read and bytes written both counted.
      matmul_tflop_s: TFLOP/s of a large square matrix product in ``dtype``.
      dtype: bfloat16 on accelerators, float32 on a CPU.
    """

    copy_gb_s: float
    matmul_tflop_s: float
    dtype: str

    def as_json(self) -> dict[str, Any]:
        """The entry in files of ``--json``."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"measured here: copy {self.copy_gb_s:.1f} GB/s, {self.dtype} matmul "
            f"{self.matmul_tflop_s:.3g} TFLOP/s"
        )


def measure_device_rates() -> DeviceRates:
    """Copies a large array in place and multiplies large matrices, for about a second."""
    is_cpu = jax.default_backend() == "cpu"
    dtype = jnp.dtype(compute_dtype("auto"))
    return DeviceRates(
        copy_gb_s=_copy_rate(CPU_COPY_BYTES if is_cpu else COPY_BYTES) / 1e9,
        matmul_tflop_s=_matmul_rate(CPU_MATMUL_SIZE if is_cpu else MATMUL_SIZE, dtype) / 1e12,
        dtype=dtype.name,
    )


def _copy_rate(num_bytes: int) -> float:
    """Bytes per second, read and written, of adding 1 to an array of ``num_bytes``."""
    add = jax.jit(lambda array: array + 1, donate_argnums=0)
    array = jax.block_until_ready(add(jnp.zeros(num_bytes // 4, jnp.float32)))

    def copy() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    return 2 * num_bytes / _seconds_per_call(copy)


def _matmul_rate(size: int, dtype: jnp.dtype) -> float:
    """FLOPs per second of the product of two random matrices."""
    # Products of zeros would draw less power, and so run faster.
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / _seconds_per_call(functools.partial(multiply, left, right))


def _seconds_per_call(call: Callable[[], jax.Array]) -> float:
    """Median seconds of a call among ``CALLS`` that are started one after another."""
    jax.block_until_ready(call())

    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        # On one device they run in the order in which they start.
        for _ in range(CALLS):
            output = call()
        jax.block_until_ready(output)
        seconds.append((time.perf_counter() - start) / CALLS)
    return statistics.median(seconds)


def chip_name(device_kind: str) -> str | None:
    """Name of the chip in ``planner.chips``, or None where it is not known."""
    # The longest name first: every "TPU v5 lite" is a "TPU v5" too.
    for prefix in sorted(CHIP_NAMES, key=len, reverse=True):
        # "NVIDIA L40S" is no L4.
        if device_kind == prefix or device_kind.startswith((prefix + " ", prefix + "-")):
            return CHIP_NAMES[prefix]
    return None


def shares_memory(devices: int) -> bool:
    """Whether the devices are threads of one CPU, so that rates of one device say nothing of them."""
    return devices > 1 and jax.default_backend() == "cpu"


def least_decode_bytes(
    params: Params, cfg: JanusConfig, prompts: int, group_size: int, prompt_length: int
) -> float:
    """Bytes that one device must read at least to decode one image token of every sample.

    All weights of a decode step once, and the filled part of the KV cache once, on average over the
    ``S`` tokens of an image::

        W + 2 * layers * kv_heads * head_size * itemsize * (2 * B * P + 2 * B * G * (S - 1) / 2)

    where ``W`` are the bytes of the parameters that match ``JANUS_IMAGE_DECODE_PATTERNS`` in the
    dtypes of ``params``; the first 2 is for keys and values; guidance has two rows per sample; a
    prompt of ``P`` positions is cached once for its ``G`` samples; and token ``t`` of an image is
    sampled when ``t`` tokens before it are cached. What is written, one position per row, and rows
    of embedding tables do not count.

    Args:
      params: with which the images are sampled.
      cfg: sizes of the model.
      prompts: ``B``, those of one device.
      group_size: ``G``, samples per prompt.
      prompt_length: ``P``.
    """
    weights = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for path, leaf in params.items()
        if matches(path, JANUS_IMAGE_DECODE_PATTERNS)
    )

    decoder, itemsize = cfg.decoder, jnp.dtype(compute_dtype("auto")).itemsize
    position = 2 * decoder.depth * decoder.kv_heads * decoder.head_size * itemsize
    filled = (cfg.image_tokens - 1) / 2
    return weights + position * (2 * prompts * prompt_length + 2 * prompts * group_size * filled)
