"""One process of a run: ``python worker.py CONFIG WORKDIR DATA [COORDINATOR PROCESSES PROCESS]``.

Runs a small config on the embedded world with few records. Its rewards differ between samples, but
not with one level of one pixel, which rounding may change.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
from absl import flags

from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.core.processes.ending import run_program
from corl_jax.core.runtime import set_up_jax


def register_rewards() -> None:
    """Rounded redness of an image, and rounded length of a text."""
    from corl_jax.rewards.base import rewards

    rewards.register("redness")(
        lambda cs, context: np.array([round(c.pixels[..., 0].mean() / 255, 2) for c in cs])
    )
    rewards.register("tens")(lambda cs, context: np.array([round(len(c.text) / 10) for c in cs]))


def main(config: str, workdir: str, data_dir: str, *process_args: str) -> int:
    flags.FLAGS(["worker"])
    set_up_jax()
    if process_args:
        coordinator, processes, process = process_args
        connect_processes(DistributedConfig(coordinator, int(processes), int(process)))

    # Only now, since these imports may touch the devices.
    from corl_jax.data.shapes import builder
    from corl_jax.stages.run import run

    open_source = builder.source
    builder.source = lambda folder, split: open_source(data_dir, split, {"train": 96, "test": 96})
    register_rewards()
    run(json.loads(pathlib.Path(config).read_text("utf-8")), workdir)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(lambda: main(*sys.argv[1:])))
