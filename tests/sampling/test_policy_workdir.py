"""A policy from a work directory: its newest checkpoint, complete or not at all."""

from __future__ import annotations

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.core.errors import UserError
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.porting.policy_source import config_to_json


def write_workdir(workdir, cfg, params, steps=(1,)):
    """A work directory with checkpoints of ``steps``; each multiplies the trainable parameters."""
    write_tokenizer(workdir / "tokenizer")
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, total_steps=2))
    identity = RunIdentity("rl", config_to_json(cfg), {})
    checkpointer = Checkpointer(workdir / "checkpoints", identity)
    data = iter(grain.MapDataset.range(4).to_iter_dataset())
    for step in steps:
        trainable, frozen = {}, {}
        for path, leaf in params.items():
            if path.startswith("language_model/"):
                trainable[path] = step * leaf
            else:
                frozen[path] = jnp.asarray(leaf)
        checkpointer.save(step, create_state(trainable, frozen, optimizer), data)
    checkpointer.close()
    return workdir


def test_the_newest_step_is_loaded(tiny_policy, tmp_path):
    workdir = write_workdir(tmp_path, tiny_policy.cfg, tiny_policy.params, steps=(1, 2))
    loaded = Policy.load(workdir)
    assert loaded.cfg == tiny_policy.cfg and loaded.params.keys() == tiny_policy.params.keys()
    for path, leaf in tiny_policy.params.items():
        factor = 2 if path.startswith("language_model/") else 1
        np.testing.assert_array_equal(loaded.params[path], factor * leaf)


def test_part_of_a_model_cannot_be_loaded(tiny_policy, tmp_path):
    part = {
        path: leaf
        for path, leaf in tiny_policy.params.items()
        if path.startswith("image_tokenizer/")
    }
    with pytest.raises(UserError, match="has no parameter"):
        Policy.load(write_workdir(tmp_path, tiny_policy.cfg, part))


def test_a_damaged_checkpoint_is_an_error(tiny_policy, tmp_path):
    workdir = write_workdir(tmp_path, tiny_policy.cfg, tiny_policy.params)
    files = [path for path in workdir.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        Policy.load(workdir)
