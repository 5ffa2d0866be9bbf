"""What JAX sees on this worker: ``check.py WORKERS CHIPS``. Ends with one line and exit code 2 if chips are missing.

On several workers all must run it at once, since each waits for the others.
"""

from __future__ import annotations

import sys

import jax


def main(workers: int, chips: int) -> int:
    """Prints one line; 0 if the slice has ``chips`` devices."""
    if workers > 1:
        jax.distributed.initialize()
    seen, here = jax.devices(), jax.local_device_count()
    print(
        f"worker {jax.process_index()} of {jax.process_count()}: {here} of {len(seen)} devices here, "
        f"{seen[0].device_kind}, jax {jax.__version__}, Python {sys.version.split()[0]}"
    )
    if len(seen) == chips:
        return 0
    print(f"error: JAX sees {len(seen)} devices, but the slice has {chips} chips", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
