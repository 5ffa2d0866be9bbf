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
from corl_jax.models.lora import (
    Lora,
    LoraLinear,
    init_adapters,
    is_adapter,
    kernel_of,
    merge_adapters,
    without_adapters,
)
from corl_jax.stages.param_placement import param_specs

LORA = Lora(
    rank=4,
    alpha=6.0,
    target=("language_model/layers/*/kernel", "language_model/lm_head/kernel", "gen_head/*/kernel"),
)
KERNEL_A_B = ("kernel", "lora_a", "lora_b")
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def structs_of(model):
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=ONE_DEVICE)
        for path, leaf in flatten_abstract(model).items()
    }


@pytest.fixture(scope="module")
def adapted(small, model):
    """The abstract model with adapters; its parameters with new adapters and with nonzero ones."""
    abstract_model = abstract(model.cfg, LORA)
    rng, adapters = np.random.default_rng(1), init_adapters(structs_of(abstract_model), 0)
    trained = {
        path: leaf
        if path.endswith("lora_a")
        else jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in adapters.items()
    }
    return abstract_model, small[1] | adapters, small[1] | trained


def outputs(graphdef, params):
    """Text and image logits of some tokens, through all layers."""
    model = bind(graphdef, params)
    tokens = jnp.arange(12).reshape(2, 6)
    states, _ = model.backbone(
        model.embed_text(tokens),
        jnp.tile(jnp.arange(6), (2, 1)),
        jnp.tile(jnp.tril(jnp.ones((6, 6), bool)), (2, 1, 1)),
    )
    return model.text_logits(states), model.image_logits(states)


def test_merged_weights_compute_what_adapters_do(small, adapted):
    abstract_model, _, trained = adapted
    graphdef, _ = nnx.split(abstract_model)
    merged = merge_adapters(trained, LORA.scale, small[1])
    assert merged.keys() == small[1].keys()
    for with_adapters, with_merged, base in zip(
        outputs(graphdef, trained), outputs(small[0], merged), outputs(*small), strict=True
    ):
        np.testing.assert_allclose(with_adapters, with_merged, rtol=0, atol=1e-5)
        assert float(jnp.max(jnp.abs(with_adapters - base))) > 0.1


def test_new_adapters_give_the_same_bits(small, adapted):
    abstract_model, untrained, _ = adapted
    graphdef, _ = nnx.split(abstract_model)
    for with_adapters, base in zip(outputs(graphdef, untrained), outputs(*small), strict=True):
        np.testing.assert_array_equal(with_adapters, base)


def test_the_merged_kernel_is_that_of_the_paper(small, adapted):
    """Kernel by kernel in float64, and rounded once where a narrower dtype is required."""
    _, _, trained = adapted
    kernels = {kernel_of(path) for path in trained if is_adapter(path)}
    bfloat16_structs = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) for path, leaf in small[1].items()
    }
    merged = merge_adapters(trained, 1.5, small[1])
    rounded = merge_adapters(trained, 1.5, bfloat16_structs)

    assert len(kernels) == 7 + 1 + 2 and LORA.scale == 1.5
    for path in kernels:
        kernel, a, b = (
            np.asarray(trained[path.replace("kernel", name)], np.float64) for name in KERNEL_A_B
        )
        np.testing.assert_allclose(merged[path], kernel + 1.5 * a @ b, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(rounded[path], merged[path].astype(jnp.bfloat16))
    for path in small[1].keys() - kernels:
        assert merged[path] is trained[path]


def test_new_adapters_are_a_function_of_seed_and_path(adapted):
    structs = structs_of(adapted[0])
    adapters, same_seed, other_seed = (init_adapters(structs, seed) for seed in (0, 0, 1))
    path = "language_model/layers/gate_proj/lora_a"
    assert without_adapters(adapters) == {} and adapters[path].shape == (3, 32, 4)
    np.testing.assert_array_equal(adapters[path], same_seed[path])
    assert np.abs(adapters[path] - other_seed[path]).mean() > 0.05
    assert np.abs(adapters[path] - adapters[path.replace("gate", "up")]).mean() > 0.05

    for name, leaf in adapters.items():
        if name.endswith("lora_b"):
            assert not np.any(leaf)
        else:
            assert np.std(leaf) == pytest.approx(leaf.shape[-2] ** -0.5, rel=0.25)


def test_only_the_target_is_adapted_and_axes_are_the_kernels(model):
    lora = Lora(rank=2, target=("language_model/layers/attention/[qv]_proj/kernel",))
    abstract_model = abstract(model.cfg, lora)
    adapters = {path for path in flatten_abstract(abstract_model) if is_adapter(path)}
    attention = "language_model/layers/attention/"
    assert adapters == {
        f"{attention}{name}/lora_{factor}" for name in ("q_proj", "v_proj") for factor in "ab"
    }

    axes = logical_axes(abstract_model)
    assert axes[attention + "q_proj/lora_a"] == ("layers", "embed", None)
    assert axes[attention + "v_proj/lora_b"] == ("layers", None, "kv_heads")

    without_rank = abstract(model.cfg, Lora())
    assert without_rank.language_model.layers.attention.q_proj.__class__ is nnx.Linear


def test_adapters_of_7b_are_sharded_like_their_kernels():
    """Rank 32 on all maps of the backbone: counted by hand, and sharded over eight devices."""
    cfg = named_size("janus_pro_7b")
    abstract_model = abstract(cfg, Lora(rank=32))
    leaves, d = flatten_abstract(abstract_model), cfg.decoder
    count = sum(int(np.prod(leaf.shape)) for path, leaf in leaves.items() if is_adapter(path))

    # There are as many key/value heads as heads, so all four attention maps are square.
    assert count == d.depth * 32 * (4 * 2 * d.width + 3 * (d.width + d.mlp_dim))

    sharder = Sharder(make_mesh({"fsdp": 4, "tensor": 2}))
    structs = param_specs(leaves, logical_axes(abstract_model), sharder)
    shard_shapes = {}
    for name in KERNEL_A_B:
        struct = structs[f"language_model/layers/down_proj/{name}"]
        shard_shapes[name] = struct.sharding.shard_shape(struct.shape)
    assert shard_shapes == {
        "kernel": (30, d.mlp_dim // 2, d.width // 4),
        "lora_a": (30, d.mlp_dim // 2, 32),
        "lora_b": (30, 32, d.width // 4),
    }


def test_a_map_with_bias_in_bfloat16(rng):
    """The product and the sum have the compute dtype of the map."""
    linear = nnx.Linear(
        8, 6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), kernel_metadata={"logical": ("embed", "mlp")},
        bias_metadata={"logical": ("mlp",)},
    )  # fmt: skip
    linear.bias[...] = jnp.arange(6.0)
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32)
    adapted = LoraLinear(linear, Lora(rank=2))
    np.testing.assert_array_equal(adapted(x), linear(x))

    adapted.lora_a[...], adapted.lora_b[...] = jnp.ones((8, 2)), jnp.ones((2, 6))
    assert adapted(x).dtype == jnp.bfloat16
    expected = np.asarray(linear(x), np.float32) + 8.0 * 2 * np.asarray(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(adapted(x), np.float32), expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            Lora(rank=2, target=("brain/*",)),
            "config.lora.target pattern 'brain/\\*' names no linear map",
        ),
        (
            Lora(rank=2, target=("language_model/norm/*",)),
            "'language_model/norm/\\*' names no linear map",
        ),
        (Lora(rank=32), "config.lora.rank must be less than 16 for .* of 32 x 16; got 32"),
    ],
)
def test_what_cannot_be_adapted_is_refused(model, lora, message):
    with pytest.raises(UserError, match=message):
        abstract(model.cfg, lora)
