"""Adapters: nothing at first, what the paper adds afterwards, and the same once they are merged."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.models.janus.config import named_size
from corl_jax.models.janus.model import abstract, logical_axes
from corl_jax.models.lora import Lora, LoraLinear, fresh, is_adapter, kernel_of, merged, without
from corl_jax.stages.config import LoraSettings
from corl_jax.stages.param_placement import param_specs

LORA = Lora(
    rank=4,
    alpha=6.0,
    target=("language_model/layers/*/kernel", "language_model/lm_head/kernel", "gen_head/*/kernel"),
)
KERNEL_A_B = ("kernel", "lora_a", "lora_b")
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def structs_of(shape):
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=HERE)
        for path, leaf in flatten_abstract(shape).items()
    }


@pytest.fixture(scope="module")
def adapted(small, model):
    """Definition with adapters, its shapes, and parameters whose adapters are not zero."""
    shape = abstract(model.cfg, LORA)
    rng, adapters = np.random.default_rng(1), fresh(structs_of(shape), 0)
    moved = {
        path: leaf
        if path.endswith("lora_a")
        else jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in adapters.items()
    }
    return nnx.split(shape)[0], shape, small[1] | adapters, small[1] | moved


def outputs(graphdef, params):
    """Text and image logits over some states, through all layers."""
    model = bind(graphdef, params)
    tokens = jnp.arange(12).reshape(2, 6)
    states, _ = model.language_model(
        model.embed_text(tokens),
        jnp.tile(jnp.arange(6), (2, 1)),
        jnp.tile(jnp.tril(jnp.ones((6, 6), bool)), (2, 1, 1)),
    )
    return model.text_logits(states), model.image_logits(states)


def test_merged_weights_compute_what_adapters_do(small, adapted):
    graphdef, _, _, moved = adapted
    whole = merged(moved, LORA.scale, small[1])
    assert whole.keys() == small[1].keys()
    for with_adapters, without_them, base in zip(
        outputs(graphdef, moved), outputs(small[0], whole), outputs(*small), strict=True
    ):
        np.testing.assert_allclose(with_adapters, without_them, rtol=0, atol=1e-5)
        assert float(jnp.max(jnp.abs(with_adapters - base))) > 0.1


def test_fresh_adapters_give_the_same_bits(small, adapted):
    graphdef, _, untouched, _ = adapted
    for with_adapters, base in zip(outputs(graphdef, untouched), outputs(*small), strict=True):
        np.testing.assert_array_equal(with_adapters, base)


def test_the_sum_is_the_papers(small, adapted):
    """Kernel by kernel in float64, and rounded once where a narrower type is wanted."""
    moved = adapted[3]
    adapted_kernels = {kernel_of(path) for path in moved if is_adapter(path)}
    narrow = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) for path, leaf in small[1].items()
    }
    sums, rounded = merged(moved, 1.5, small[1]), merged(moved, 1.5, narrow)
    assert len(adapted_kernels) == 7 + 1 + 2 and LORA.scale == 1.5
    for path in adapted_kernels:
        kernel, a, b = (
            np.asarray(moved[path.replace("kernel", name)], np.float64) for name in KERNEL_A_B
        )
        np.testing.assert_allclose(sums[path], kernel + 1.5 * a @ b, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(rounded[path], sums[path].astype(jnp.bfloat16))
    for path in small[1].keys() - adapted_kernels:
        assert sums[path] is moved[path]


def test_fresh_adapters_follow_seed_and_path(adapted):
    structs = structs_of(adapted[1])
    first, again, other = (fresh(structs, seed) for seed in (0, 0, 1))
    path = "language_model/layers/gate_proj/lora_a"
    assert without(first) == {} and first[path].shape == (3, 32, 4)
    np.testing.assert_array_equal(first[path], again[path])
    assert np.abs(first[path] - other[path]).mean() > 0.05
    assert np.abs(first[path] - first[path.replace("gate", "up")]).mean() > 0.05
    for name, leaf in first.items():
        if name.endswith("lora_b"):
            assert not np.any(leaf)
        else:
            assert np.std(leaf) == pytest.approx(leaf.shape[-2] ** -0.5, rel=0.25)


def test_only_what_is_named_is_adapted_and_axes_are_the_kernels(model):
    lora = Lora(rank=2, target=("language_model/layers/attention/[qv]_proj/kernel",))
    shape = abstract(model.cfg, lora)
    adapters = {path for path in flatten_abstract(shape) if is_adapter(path)}
    home = "language_model/layers/attention/"
    assert adapters == {
        f"{home}{name}/lora_{part}" for name in ("q_proj", "v_proj") for part in "ab"
    }
    axes = logical_axes(shape)
    assert axes[home + "q_proj/lora_a"] == ("layers", "embed", None)
    assert axes[home + "v_proj/lora_b"] == ("layers", None, "kv_heads")
    assert (
        abstract(model.cfg, Lora()).language_model.layers.attention.q_proj.__class__ is nnx.Linear
    )


def test_seven_billion_parameters_are_spread_with_their_kernels():
    """Rank 32 on all maps of the trunk of 7B: counted by hand, and placed over a mesh of eight."""
    cfg = named_size("janus_pro_7b")
    shape = abstract(cfg, Lora(rank=32))
    leaves, d = flatten_abstract(shape), cfg.decoder
    number = sum(int(np.prod(leaf.shape)) for path, leaf in leaves.items() if is_adapter(path))
    assert number == d.depth * 32 * (
        4 * 2 * d.width + 3 * (d.width + d.mlp_dim)
    )  # as many heads as keys
    structs = param_specs(leaves, logical_axes(shape), Sharder(make_mesh({"fsdp": 4, "tensor": 2})))
    home = "language_model/layers/down_proj/"
    parts = {
        name: structs[home + name].sharding.shard_shape(structs[home + name].shape)
        for name in KERNEL_A_B
    }
    assert parts == {
        "kernel": (30, d.mlp_dim // 2, d.width // 4),
        "lora_a": (30, d.mlp_dim // 2, 32),
        "lora_b": (30, 32, d.width // 4),
    }


def test_a_map_with_bias_in_bfloat16(rng):
    """The product and the sum are of the type that the map computes in."""
    plain = nnx.Linear(
        8, 6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), kernel_metadata={"logical": ("embed", "mlp")},
        bias_metadata={"logical": ("mlp",)},
    )  # fmt: skip
    plain.bias[...] = jnp.arange(6.0)
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32)
    mapped = LoraLinear(plain, Lora(rank=2))
    np.testing.assert_array_equal(mapped(x), plain(x))
    mapped.lora_a[...], mapped.lora_b[...] = jnp.ones((8, 2)), jnp.ones((2, 6))
    assert mapped(x).dtype == jnp.bfloat16
    wanted = np.asarray(plain(x), np.float32) + 8.0 * 2 * np.asarray(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(mapped(x), np.float32), wanted, rtol=0.05, atol=0.3)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        (Lora(rank=2, target=("brain/*",)), "lora.target pattern 'brain/\\*' names no linear map"),
        (
            Lora(rank=2, target=("language_model/norm/*",)),
            "'language_model/norm/\\*' names no linear map",
        ),
        (Lora(rank=32), "lora.rank=32 is no low rank for .* of 32 x 16; expected less than 16"),
    ],
)
def test_what_cannot_be_adapted_is_refused(model, lora, says):
    with pytest.raises(UserError, match=says):
        abstract(model.cfg, lora)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rank": -1}, "lora.rank=-1 is no rank"),
        ({"rank": 1.5}, "lora.rank=1.5 is no rank"),
        ({"alpha": 0.0}, "lora.alpha=0.0 would silence"),
        ({"target": ()}, "lora.target=\\(\\) is no tuple of patterns"),
        (
            {"base_dtype": "int4"},
            "lora.base_dtype='int4' is unknown; expected one of float32, bfloat16",
        ),
    ],
)
def test_bad_settings_are_one_line(values, says):
    with pytest.raises(UserError, match=says):
        LoraSettings(**values)
