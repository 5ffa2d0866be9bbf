import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import DEFAULT_RULES, Sharder, constrain, make_mesh, sharding_context


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))


def test_specs_follow_the_rules(sharder):
    assert sharder.spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert sharder.spec(("batch", None, None)) == PartitionSpec(("data", "fsdp"), None, None)
    assert sharder.spec(("layers", "norm")) == PartitionSpec(None, None)
    assert sharder.batch_shards == 4


def test_a_name_without_a_rule_is_named(sharder):
    with pytest.raises(UserError, match="logical axis 'wdith' has no sharding rule.*batch"):
        sharder.spec(("embed", "wdith"))


def test_a_mesh_axis_used_twice_is_named(sharder):
    with pytest.raises(UserError, match=r"'tensor' is used twice.*'vocab', 'mlp'"):
        sharder.spec(("vocab", "mlp"))


def test_a_rule_with_an_unknown_mesh_axis_is_named():
    with pytest.raises(
        UserError, match="'embed' names mesh axis 'model'; the mesh has data, fsdp, tensor"
    ):
        Sharder(make_mesh({"data": -1}), {**DEFAULT_RULES, "embed": "model"})


def test_a_size_that_does_not_divide_is_named(sharder):
    assert sharder.checked_sharding((3, 8, 6), ("embed", "mlp"), "w").spec == PartitionSpec(
        None, "fsdp", "tensor"
    )
    with pytest.raises(
        UserError,
        match="lm_head/kernel: an axis of size 7 does not divide over 2 devices of 'tensor'",
    ):
        sharder.checked_sharding((8, 7), ("embed", "vocab"), "lm_head/kernel")


def test_mesh_sizes():
    assert dict(make_mesh({"data": 2, "fsdp": -1}).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert make_mesh({"data": 2}, jax.devices()[:2]).size == 2
    assert dict(make_mesh({"data": -1, "fsdp": -4}).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(make_mesh({"data": -1, "fsdp": -3}).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert dict(make_mesh({"data": -1, "fsdp": -8}, jax.devices()[:1]).shape) == {
        "data": 1,
        "fsdp": 1,
        "tensor": 1,
    }
    with pytest.raises(UserError, match="needs 3 devices, but there are 8"):
        make_mesh({"data": 3})
    with pytest.raises(UserError, match="needs 6 devices, but there are 8"):
        make_mesh({"data": 3, "fsdp": -1, "tensor": 1})
    with pytest.raises(
        UserError, match=r"\['model'\] are unknown; expected some of data, fsdp, tensor"
    ):
        make_mesh({"model": 8})


def test_batches_are_sharded_where_they_divide(sharder):
    batch = sharder.put_batch(
        {"rows": np.zeros((8, 3)), "odd": np.zeros((3, 2)), "step": np.int32(1)}
    )
    assert batch["rows"].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert batch["rows"].addressable_shards[0].data.shape == (2, 3)
    assert batch["odd"].sharding.is_fully_replicated
    assert batch["step"].sharding.is_fully_replicated


def test_constrain_acts_inside_the_context_only(sharder):
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch") is x
    with sharding_context(sharder):
        y = jax.jit(lambda x: constrain(x * 1, "batch", "mlp"))(x)
    assert y.sharding.spec == PartitionSpec(("data", "fsdp"), "tensor")
    assert constrain(x, "batch") is x
    with pytest.raises(UserError, match="'wdith'"), sharding_context(sharder):
        constrain(x, "wdith")
    assert constrain(x, "wdith") is x
