"""A policy out of a work directory: the newest checkpoint, whole or not at all."""

from __future__ import annotations

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.core.errors import UserError
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.engine.checkpoint import Checkpointer
from corl_jax.engine.manifest import RunIdentity
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.porting.policy_source import config_to_json


def write(folder, cfg, params, steps=(1,)):
    """A work directory as a run leaves it, its parameters made larger with every step."""
    write_tokenizer(folder / "tokenizer")
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, total_steps=2))
    saver = Checkpointer(folder / "checkpoints", RunIdentity("rl", config_to_json(cfg), {}))
    data = iter(grain.MapDataset.range(4).to_iter_dataset())
    for step in steps:
        trainable = {
            name: step * leaf for name, leaf in params.items() if name.startswith("language_model/")
        }
        frozen = {name: jnp.asarray(leaf) for name, leaf in params.items() if name not in trainable}
        saver.save(step, create_state(trainable, frozen, optimizer), data)
    saver.close()
    return folder


def test_the_newest_step_is_loaded(tiny_policy, tmp_path):
    loaded = Policy.load(write(tmp_path, tiny_policy.cfg, tiny_policy.params, steps=(1, 2)))
    assert loaded.cfg == tiny_policy.cfg and loaded.params.keys() == tiny_policy.params.keys()
    for name, leaf in tiny_policy.params.items():
        factor = 2 if name.startswith("language_model/") else 1
        np.testing.assert_array_equal(loaded.params[name], factor * leaf)


def test_part_of_a_model_is_no_policy(tiny_policy, tmp_path):
    part = {
        name: leaf
        for name, leaf in tiny_policy.params.items()
        if name.startswith("image_tokenizer/")
    }
    with pytest.raises(UserError, match="has no parameter"):
        Policy.load(write(tmp_path, tiny_policy.cfg, part))


def test_a_damaged_checkpoint_is_named(tiny_policy, tmp_path):
    folder = write(tmp_path, tiny_policy.cfg, tiny_policy.params)
    largest = max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        Policy.load(folder)
