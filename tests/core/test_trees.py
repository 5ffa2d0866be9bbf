import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind, count, digest, flatten, flatten_abstract, partition


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(12)])
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = jnp.tanh(block(x))
        return self.head(x)


@pytest.fixture(scope="module")
def net():
    return Net(nnx.Rngs(0))


def test_flatten_and_bind_are_inverse(net):
    graphdef, params = flatten(net)
    assert params["blocks/10/kernel"].shape == (3, 3) and len(params) == 26
    bound = bind(graphdef, params)
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(bound(x), net(x))
    assert digest(flatten(bound)[1]) == digest(params)


def test_bind_accepts_paths_in_any_order(net):
    graphdef, params = flatten(net)
    x = jnp.ones((1, 3))
    np.testing.assert_array_equal(
        bind(graphdef, dict(sorted(params.items(), reverse=True)))(x), net(x)
    )


def test_gradients_have_the_same_paths(net):
    graphdef, params = flatten(net)
    grads = jax.jit(jax.grad(lambda p: bind(graphdef, p)(jnp.ones((1, 3))).sum()))(params)
    assert {k: v.shape for k, v in grads.items()} == {k: v.shape for k, v in params.items()}
    np.testing.assert_allclose(grads["head/bias"], 1)


def test_abstract_equals_concrete(net):
    shapes = flatten_abstract(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
        k: (v.shape, v.dtype) for k, v in flatten(net)[1].items()
    }
    assert count(shapes) == 12 * 12 + 8


def test_partition_splits_without_loss(net):
    params = flatten(net)[1]
    chosen, remaining = partition(params, ["blocks/**", "head/bias"])
    assert set(remaining) == {"head/kernel"}
    assert chosen.keys() | remaining.keys() == params.keys()


def test_partition_refuses_patterns_without_a_match(net):
    with pytest.raises(
        UserError, match=r"'langauge/\*\*' matches no parameter; the model has blocks, head"
    ):
        partition(flatten(net)[1], ["head/**", "langauge/**"])


def test_digest_depends_on_bits_paths_shapes_and_dtypes_but_not_on_order():
    a = {"x": jnp.arange(4.0), "y": jnp.ones(2)}
    assert digest(a) == digest(dict(reversed(a.items())))
    changed = [
        a | {"x": jnp.arange(4.0).at[0].set(-0.0)},
        {"z": a["x"], "y": a["y"]},
        a | {"x": a["x"].reshape(2, 2)},
        a | {"x": jnp.arange(4.0).astype(jnp.bfloat16)},
    ]
    assert len({digest(tree) for tree in (a, *changed)}) == 5
