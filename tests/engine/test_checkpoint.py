import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_stage

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.handoff import load_params
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import abstract, create_state

IDENTITY = RunIdentity("toy", {"width": 8}, {"steps": 3})


def sharded_state(moment="float32"):
    sharder = Sharder(make_mesh({"fsdp": -1}))
    rows = 8 * len(jax.devices())
    kernel = jax.random.normal(jax.random.key(0), (rows, 300))
    trainable = {"layers/0/kernel": jax.device_put(kernel, sharder.named_sharding("embed", None))}
    frozen = {"norm.x/scale": jax.device_put(jnp.ones(300, jnp.bfloat16), sharder.named_sharding())}
    optimizer = make_optimizer(OptimConfig(0.1, 10, first_moment_dtype=moment))
    state = create_state(trainable, frozen, optimizer, {"coef": 0.1, "none": None})
    moments = jax.tree.map(lambda leaf: (leaf + 0.3).astype(leaf.dtype), state.opt_state)
    return dataclasses.replace(state, opt_state=moments)


@pytest.mark.parametrize("moment", ["float32", "bfloat16"])
def test_a_sharded_state_comes_back_bit_for_bit_with_its_shardings(tmp_path, moment):
    state, data = sharded_state(moment), toy_stage.ToyStage().data_iterator()
    checkpointer = Checkpointer(tmp_path, IDENTITY, keep=2)
    for step in (1, 2, 3):
        next(data)
        checkpointer.save(step, state, data)
    checkpointer.save(3, state, data)
    checkpointer.wait()
    expected = next(data)
    read = checkpointer.restore(abstract(state), data)
    step, restored = read.step, read.state
    checkpointer.close()
    assert step == 3 and saved_steps(tmp_path) == [2, 3]
    np.testing.assert_array_equal(next(data)["x"], expected["x"])
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert new.sharding == old.sharding and new.dtype == old.dtype
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()


def test_parameters_move_to_another_mesh(tmp_path):
    state = sharded_state()
    checkpointer = Checkpointer(tmp_path / "checkpoints", IDENTITY)
    checkpointer.save(1, state, toy_stage.ToyStage().data_iterator())
    checkpointer.close()

    # On one device instead of all of them.
    single = Sharder(make_mesh({}, jax.devices()[:1])).named_sharding()
    abstract_params = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=single)
        for name, leaf in state.params.items()
    }
    params = load_params(tmp_path, abstract_params)
    for name, leaf in state.params.items():
        assert params[name].sharding == single
        assert np.asarray(params[name]).tobytes() == np.asarray(leaf).tobytes()

    # In another dtype.
    name = "norm.x/scale"
    wide_struct = jax.ShapeDtypeStruct((300,), jnp.float32, sharding=single)
    wide = load_params(tmp_path, {name: wide_struct})[name]
    assert wide.dtype == jnp.float32 and wide.sharding == single
    np.testing.assert_array_equal(wide, state.params[name].astype(jnp.float32))

    # Of another shape.
    message = (
        r"'norm.x/scale' must be float32\[3\], but the saved one is bfloat16\[300\]; "
        "start from a checkpoint of the same model size"
    )
    with pytest.raises(UserError, match=message):
        load_params(tmp_path, {name: jax.ShapeDtypeStruct((3,), jnp.float32, sharding=single)})


def test_a_missing_checkpoint_and_no_checkpoint_to_keep_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        Checkpointer(tmp_path, IDENTITY).restore(
            abstract(sharded_state()), toy_stage.ToyStage().data_iterator()
        )
    with pytest.raises(UserError, match="keep=0"):
        Checkpointer(tmp_path, IDENTITY, keep=0)
