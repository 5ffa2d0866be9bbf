"""One process of a run: ``python worker.py CONFIG WORKDIR DATA [COORDINATOR PROCESSES PROCESS]``.

The real run of a small config on the embedded world with few records, and rewards that tell samples
apart but not one level of one pixel, which rounding may move.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
from absl import flags

from corl_jax.core.errors import UserError
from corl_jax.core.processes import DistributedConfig, connect_processes
from corl_jax.core.runtime import set_up_jax


def main(config: str, workdir: str, data: str, *place: str) -> int:
    flags.FLAGS(["worker"])
    set_up_jax()
    try:
        if place:
            connect_processes(DistributedConfig(place[0], int(place[1]), int(place[2])))
        from corl_jax.data.shapes import builder
        from corl_jax.rewards.base import rewards
        from corl_jax.stages.run import run

        real = builder.source
        builder.source = lambda folder, split: real(data, split, {"train": 96, "test": 96})
        rewards.register("redness")(
            lambda cs, context: np.array([round(c.pixels[..., 0].mean() / 255, 2) for c in cs])
        )
        rewards.register("tens")(
            lambda cs, context: np.array([round(len(c.text) / 10) for c in cs])
        )
        run(json.loads(pathlib.Path(config).read_text("utf-8")), workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
