"""Functions that tests of several rooms use."""

from __future__ import annotations

import json


def apply_update(update, state, batch):
    """One update of a whole train state: the next state, and metrics.

    Args:
      update: from ``engine.update.make_update``.
    """
    next_state, metrics = update(state.with_frozen({}), state.frozen, batch)
    return next_state.with_frozen(state.frozen), metrics


def train_and_stop(config, workdir, steps):
    """Trains ``steps`` steps and stops as a killed run does: without a checkpoint of its own."""
    from corl_jax.engine.loop import train
    from corl_jax.stages.run import prepare

    results = train(prepare(config, workdir))
    assert [next(results).step for _ in range(steps)] == list(range(1, steps + 1))
    results.close()


def metric_rows(workdir):
    """The rows of a run's ``metrics.jsonl`` without the columns that say how long a step took."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")} for row in rows
    ]
