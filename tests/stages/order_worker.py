"""One process that reads the records of some steps: ``python order_worker.py FOLDER DATA FIRST LAST
[COORDINATOR PROCESSES PROCESS]``.

It goes on where ``FOLDER/position.json`` says, and writes which rows of which steps it has read, by
id, into ``FOLDER/FIRST.PROCESS.json``.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import numpy as np
from absl import flags

from corl_jax.core.processes.connection import DistributedConfig, connect_processes

PARTS = {
    "counts": {"source": "shapes", "question_kinds": ["count"], "limit": 20},
    "others": {"source": "shapes", "qa_type": "MC", "image_weight": [3], "text_weight": [3]},
}
SPLIT = PARTS | {"others": PARTS["others"] | {"text_weight": [0]}}
VARIANTS = {"one source": {}, "mixture": PARTS, "a mixture per task": SPLIT, "history": PARTS}


def read_steps(folder: pathlib.Path, data_dir: str, first: int, last: int) -> dict:
    """Variant and step to the records that this process reads, by their number in the step."""
    from corl_jax.core.sharding import Sharder, make_mesh
    from corl_jax.data.shapes import builder
    from corl_jax.stages.config import DataConfig
    from corl_jax.stages.train_records import TrainRecords

    open_source = builder.source
    builder.source = lambda cache, split: open_source(data_dir, split, {"train": 96, "test": 96})
    sharder = Sharder(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    position_file = folder / "position.json"
    positions = json.loads(position_file.read_text()) if first else {}

    def read(records, step):
        return {int(row): records[row].id for row in sharder.local_row_ids(len(records))}

    steps: dict = {}
    for name, mixture in VARIANTS.items():
        config = {"seed": 5, "data": vars(DataConfig()) | {"mixture": mixture}}
        order = TrainRecords(config, {"image": 8, "text": 4}, is_paired=False)
        records = order.open({"image": (), "text": ()})
        has_history = name == "history"
        iterator = (order.unsolved_batches if has_history else order.batches)(records, read)
        if first:
            iterator.set_state(positions[name])

        steps[name] = {}
        for step in range(first, last):
            steps[name][step] = next(iterator)
            if has_history:
                rows = iterator.rows(step)
                iterator.outcomes.add(rows, (rows * 7 + step) % 3 / 2)
        positions[name] = iterator.get_state()

    if jax.process_index() == 0:
        position_file.write_text(json.dumps(positions, default=np.ndarray.tolist))
    return steps


def main(folder: str, data_dir: str, first: str, last: str, *process_args: str) -> None:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["worker"])
    if process_args:
        coordinator, processes, process = process_args
        connect_processes(DistributedConfig(coordinator, int(processes), int(process)))
    steps = read_steps(pathlib.Path(folder), data_dir, int(first), int(last))
    file = pathlib.Path(folder) / f"{first}.{jax.process_index()}.json"
    file.write_text(json.dumps(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
