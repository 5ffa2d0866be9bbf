import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_stage

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.engine.checkpoint import Checkpointer, saved_steps
from corl_jax.engine.handoff import load_params
from corl_jax.engine.manifest import RunIdentity
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
def test_sharded_state_comes_back_bit_for_bit_in_its_placement(tmp_path, moment):
    state, data = sharded_state(moment), toy_stage.ToyStage().data()
    keeper = Checkpointer(tmp_path, IDENTITY, keep=2)
    for step in (1, 2, 3):
        next(data)
        keeper.save(step, state, data)
    keeper.save(3, state, data)
    expected = next(data)
    step, restored = keeper.restore(abstract(state), data)
    keeper.close()
    assert step == 3 and saved_steps(tmp_path) == [2, 3]
    np.testing.assert_array_equal(next(data)["x"], expected["x"])
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert new.sharding == old.sharding and new.dtype == old.dtype
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()


def test_parameters_move_to_another_mesh(tmp_path):
    state = sharded_state()
    keeper = Checkpointer(tmp_path / "checkpoints", IDENTITY)
    keeper.save(1, state, toy_stage.ToyStage().data())
    keeper.close()
    one = Sharder(make_mesh({}, jax.devices()[:1])).named_sharding()
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)
        for name, leaf in state.params.items()
    }
    params = load_params(tmp_path, wanted)
    for name, leaf in state.params.items():
        assert params[name].sharding == one
        assert np.asarray(params[name]).tobytes() == np.asarray(leaf).tobytes()
    wide = load_params(
        tmp_path, {"norm.x/scale": jax.ShapeDtypeStruct((300,), jnp.float32, sharding=one)}
    )
    assert wide["norm.x/scale"].dtype == jnp.float32 and wide["norm.x/scale"].sharding == one
    np.testing.assert_array_equal(
        wide["norm.x/scale"], state.params["norm.x/scale"].astype(jnp.float32)
    )
    with pytest.raises(
        UserError, match=r"'norm.x/scale' is bfloat16\[300\] there, but float32\[3\]"
    ):
        load_params(
            tmp_path, {"norm.x/scale": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=one)}
        )


def test_nothing_to_restore_and_nothing_to_keep(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpointer(tmp_path, IDENTITY).restore(
            abstract(sharded_state()), toy_stage.ToyStage().data()
        )
    with pytest.raises(UserError, match="keep=0"):
        Checkpointer(tmp_path, IDENTITY, keep=0)
