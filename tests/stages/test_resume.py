"""A run that was stopped and taken up again is the run that was never stopped, bit for bit."""

from __future__ import annotations

import json

import pytest

from corl_jax.engine.manifest import read_manifest
from corl_jax.stages.run import prepare, run, steps


def rows(folder):
    """The run's rows but for how long they took."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


CHANGES = {
    "plain": {},
    "stale": {"rl.stale_rollouts": True, "rl.importance_cap": 2.0},
    "following": {"text": "tens", "rl.refill": 1, "rl.reference_every": 2, "rl.reference_mix": 0.5},
}


@pytest.mark.parametrize("how", CHANGES)
def test_stopped_and_resumed_equals_never_stopped(rl_config, small_world, tmp_path, how):
    stale = how == "stale"
    config, whole, parts = (
        rl_config(**{"steps": 4, "hooks.save_every": 2} | CHANGES[how]),
        tmp_path / "a",
        tmp_path / "b",
    )
    with small_world():
        run(config, whole)
        going = steps(prepare(config, parts))
        assert [next(going).step for _ in range(3)] == [1, 2, 3]
        going.close()  # after step 3, of which nothing is saved
        assert [row["step"] for row in rows(parts)][-1] == 3
        assert [folder.name for folder in (parts / "checkpoints").iterdir()] == ["2"]
        run(config, parts)
        assert rows(parts) == rows(whole) and [row["step"] for row in rows(whole)] == [1, 2, 3, 4]
        last = [read_manifest(folder / "checkpoints" / "4") for folder in (whole, parts)]
        assert last[0] == last[1] and last[0].params_digest is not None
        before = (parts / "metrics.jsonl").read_bytes()
        run(config, parts)  # complete: nothing happens
        assert (parts / "metrics.jsonl").read_bytes() == before
    assert {"image/kl", "text/kl", "image/reward/redness", "text/sampler_logp_diff"} <= set(rows(whole)[0])
    assert any(row["text/kl"] > 0 for row in rows(whole))
    if how == "following":
        assert any(row["text/resampled"] for row in rows(whole)[2:])
    assert [row["text/sampler_logp_diff"] > 1e-4 for row in rows(whole)] == [False, stale, stale, stale]
