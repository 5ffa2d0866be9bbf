"""Checks that JAX sees all chips of the slice: ``check.py WORKERS CHIPS``.

Prints one line about the devices. If devices are missing, the exit code is 2. On a slice of several
workers all of them must run it at the same time, because ``jax.distributed`` waits for the others.
"""

from __future__ import annotations

import sys

import jax


def main(workers: int, chips: int) -> int:
    """Prints the devices of this worker and of the slice.

    Args:
      workers: VMs of the slice.
      chips: of the slice; JAX shows each as one device.

    Returns:
      The exit code: 0 if the slice has ``chips`` devices, otherwise 2.
    """
    if workers > 1:
        jax.distributed.initialize()

    devices = jax.devices()
    print(
        f"worker {jax.process_index()} of {jax.process_count()}: "
        f"{jax.local_device_count()} of {len(devices)} devices are local, "
        f"{devices[0].device_kind}, jax {jax.__version__}, Python {sys.version.split()[0]}"
    )

    if len(devices) == chips:
        return 0
    print(
        f"error: JAX sees {len(devices)} devices, but the slice has {chips} chips", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
