"""Every attention kernel equals the plain one where a CPU can run it; elsewhere it is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pallas_tpu

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.models import attention_kernels
from corl_jax.models.attention_kernels import attend, available_kernels, check_kernel, kernels
from corl_jax.models.janus.config import JANUS_PRO_1B, TINY
from corl_jax.models.janus.model import abstract
from corl_jax.models.random_params import random_params
from corl_jax.sampling.prompt_layout import prompt_mask

HEADS, KV_HEADS, SIZE = 4, 2, 16


def shared_prefix_mask(prompt_masks, samples, length):
    """Mask of prompts and then ``samples`` completions of each; no causal mask has such blocks."""
    sample, position = jnp.divmod(jnp.arange(samples * length), length)
    completions = (sample[:, None] == sample) & (position[:, None] >= position)
    padded = jnp.pad(prompt_masks, ((0, 0), (0, samples * length)), constant_values=True)
    prompt_length = prompt_masks.shape[1]
    return prompt_mask(padded).at[:, prompt_length:, prompt_length:].set(completions)


def random_qkv(rng, rows, length, kv_length):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return (
        normal(rows, length, HEADS, SIZE),
        normal(rows, KV_HEADS, kv_length, SIZE),
        normal(rows, KV_HEADS, kv_length, SIZE),
    )


def left_padded(*lengths, padded_to):
    return jnp.asarray(np.arange(padded_to)[None] >= padded_to - np.array(lengths)[:, None])


def masks():
    """By name: the mask, which of its queries are used, and the number of keys."""
    prompts = left_padded(20, 13, padded_to=20)
    long_prompts = left_padded(140, 3, padded_to=140)
    prompts_and_completions = jnp.pad(prompts, ((0, 0), (0, 15)), constant_values=True)
    return {
        "none": (None, jnp.ones((2, 20), bool), 20),
        "padded": (prompt_mask(prompts), prompts, 20),
        "shared prefix": (shared_prefix_mask(prompts, 3, 5), prompts_and_completions, 35),
        "two blocks": (prompt_mask(long_prompts), long_prompts, 140),
    }


def value_and_gradients(attention, qkv, mask, is_used):
    def loss(q, k, v):
        mixed = attention(q, k, v, mask)
        used = jnp.where(is_used[..., None, None], mixed, 0)
        return jnp.sum(jnp.sin(used)), (used, jnp.isfinite(mixed).all())

    (_, (used, finite)), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*qkv)
    assert finite  # unused outputs too: a later layer multiplies them by 0
    return used, *grads


def assert_equal_to_einsum(name, mask_name, rng):
    mask, is_used, kv_length = masks()[mask_name]
    qkv = random_qkv(rng, 2, is_used.shape[1], kv_length)
    expected = value_and_gradients(attend, qkv, mask, is_used)
    actual = value_and_gradients(kernels[name].attend, qkv, mask, is_used)
    for label, x, y in zip(("out", "q", "k", "v"), actual, expected, strict=True):
        assert np.abs(y).max() > 0.1, label
        np.testing.assert_allclose(x, y, atol=1e-5, err_msg=label)


@pytest.mark.parametrize("mask_name", ["none", "shared prefix", "two blocks"])
def test_splash_equals_einsum(rng, mask_name, monkeypatch):
    """Short blocks: a row of the longest mask has only empty blocks, which would divide by 0."""
    monkeypatch.setattr(attention_kernels, "MAX_BLOCK", 128)
    with pallas_tpu.force_tpu_interpret_mode():
        assert_equal_to_einsum("splash", mask_name, rng)


@pytest.mark.parametrize("mask_name", ["none", "shared prefix"])
def test_cudnn_arguments_give_the_result_of_einsum(rng, mask_name, monkeypatch):
    """JAX's plain implementation replaces cuDNN, with the same arguments."""
    plain = jax.nn.dot_product_attention

    def without_gpu(q, k, v, mask, implementation):
        assert implementation == "cudnn" and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
        return plain(q, k, v, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_gpu)
    assert_equal_to_einsum("cudnn", mask_name, rng)


def test_kernels_run_on_the_rows_and_heads_of_each_device(rng, monkeypatch):
    mask, _, kv_length = masks()["padded"]
    q, k, v = random_qkv(rng, 2, 20, kv_length)
    shapes = []

    def spy(q, k, v, mask):
        shapes.append((q.shape, k.shape, mask.shape))
        return attend(q, k, v, mask)

    sharder = Sharder(make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4]))
    per_device = functools.partial(attention_kernels._attend_per_device, spy)
    with sharding_context(sharder):
        sharded = jax.jit(per_device)(q, k, v, mask)
        with_one_mask = jax.jit(per_device)(q, k, v, jnp.ones((1, 20, 20), bool))
        # Three rows do not divide over two devices.
        three_rows = jax.jit(per_device)(*(jnp.concatenate([x, x[:1]]) for x in (q, k, v, mask)))

    assert shapes[0] == ((1, 20, 2, SIZE), (1, 1, 20, SIZE), (1, 20, 20))
    assert shapes[1][2] == (1, 20, 20)
    np.testing.assert_allclose(sharded, attend(q, k, v, mask), atol=1e-6)
    np.testing.assert_allclose(three_rows[:2], sharded, atol=1e-6)
    np.testing.assert_allclose(with_one_mask, attend(q, k, v, None), atol=1e-6)

    # Six query heads with three key/value heads.
    q = jnp.concatenate([q, q], 2)[:, :, :6]
    k, v = (jnp.concatenate([x, x], 1)[:, :3] for x in (k, v))
    with (
        sharding_context(sharder),
        pytest.raises(UserError, match="attention: an axis of size 3 does not divide over 2"),
    ):
        per_device(q, k, v, mask)


@pytest.mark.parametrize("mask_rows", [1, 2])
def test_splash_lowers_for_a_tpu_without_one(mask_rows):
    qkv = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in ((2, 600, 4, 128), (2, 2, 600, 128), (2, 2, 600, 128))
    ]
    mask = jax.ShapeDtypeStruct((mask_rows, 600, 600), bool)

    def loss(q, k, v, mask):
        return jnp.sum(kernels["splash"].attend(q, k, v, mask).astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*qkv, mask)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # Forward, gradient of queries, gradient of keys and values.
    assert text.count("tpu_custom_call") >= 3


def test_the_model_uses_its_kernel_and_decodes_with_the_plain_one(monkeypatch):
    query_shapes = []

    def spy(q, k, v, mask):
        query_shapes.append(q.shape)
        return attend(q, k, v, mask)

    kernel = attention_kernels.Kernel(spy)
    monkeypatch.setitem(kernels._entries, "spy", kernel)
    graphdef, cfg = nnx.split(abstract(TINY, attention="spy"))[0], TINY.decoder

    def run(params, length):
        model = bind(graphdef, params)
        cache, mask = model.backbone.empty_cache(2, 12), jnp.ones((2, length, 12), bool)
        x, positions = jnp.zeros((2, length, cfg.width)), jnp.zeros((2, length), int)
        states, _ = model.backbone.cached(x, positions, mask, cache, 0, ())
        return states, model.embed_images(jnp.zeros((1, 48, 48, 3)))

    params = flatten_abstract(abstract(TINY))
    jax.eval_shape(functools.partial(run, length=5), params)
    assert set(query_shapes) == {(2, 5, 4, 32), (1, 36, 4, 32)}

    # A step of one token: only the vision tower uses the kernel.
    query_shapes.clear()
    jax.eval_shape(functools.partial(run, length=1), params)
    assert set(query_shapes) == {(1, 36, 4, 32)}


def test_a_named_kernel_serves_completions_behind_a_shared_prefix(rng, monkeypatch):
    shapes = []

    def spy(q, k, v, mask):
        shapes.append((q.shape[1], k.shape[2]))
        return attend(q, k, v, mask)

    monkeypatch.setitem(kernels._entries, "spy", attention_kernels.Kernel(spy))
    prompts, samples, prompt_length, length = 2, 3, 5, 4
    width = prompt_length + length
    x = jnp.asarray(rng.normal(size=(prompts, prompt_length, TINY.decoder.width)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(prompts * samples, length, TINY.decoder.width)), jnp.float32)
    # Two padding tokens on the left of the second prompt.
    is_token = jnp.ones((prompts, width), bool).at[1, :2].set(False)
    mask = jnp.tril(jnp.ones((width, width), bool)) & is_token[:, None]
    positions = jnp.maximum(jnp.cumsum(is_token, 1) - 1, 0)

    def total(params, name):
        model = bind(nnx.split(abstract(TINY, attention=name))[0], params)
        prompt_rows = (x, positions[:, :prompt_length], mask[:, :prompt_length, :prompt_length])
        rows = [jnp.repeat(leaf, samples, 0)[:, prompt_length:] for leaf in (positions, mask)]
        _, states = model.backbone.with_shared_prefix(prompt_rows, (y, *rows))
        return jnp.sum(jnp.sin(states)), states

    params = random_params(abstract(TINY), 0)
    run = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    (_, expected), expected_gradient = run(params, "einsum")
    (_, states), gradient = run(params, "spy")
    np.testing.assert_allclose(states, expected, atol=1e-5)
    for path, leaf in expected_gradient.items():
        np.testing.assert_allclose(gradient[path], leaf, atol=1e-3, err_msg=path)
    assert set(shapes) == {(prompt_length, prompt_length), (length, width)}


@pytest.mark.parametrize(
    ("name", "platform", "head_sizes", "dtype", "message"),
    [
        (
            "splash",
            "cpu",
            (128,),
            jnp.float32,
            "'splash' needs a TPU, the programs are for cpu; .*=einsum$",
        ),
        (
            "cudnn",
            "tpu",
            (128,),
            jnp.bfloat16,
            "'cudnn' needs a GPU, the programs are for tpu; .*=einsum or splash",
        ),
        (
            "splash",
            "tpu",
            (128, 192),
            jnp.bfloat16,
            "'splash' requires heads of up to 128 .*, not 192; .*=einsum",
        ),
        (
            "cudnn",
            "gpu",
            (64, 20),
            jnp.bfloat16,
            "'cudnn' requires heads of a multiple of 8 up to 128, not 20",
        ),
        ("cudnn", "gpu", (64,), jnp.float32, "compute_dtype=bfloat16, not float32"),
        (
            "flash",
            "gpu",
            (64,),
            jnp.float32,
            "unknown attention kernel 'flash'; expected one of cudnn, einsum, splash",
        ),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_by_name(name, platform, head_sizes, dtype, message):
    with pytest.raises(UserError, match=message):
        check_kernel(name, platform, head_sizes, dtype)


def test_released_sizes_may_use_every_kernel():
    check_kernel("splash", "tpu", JANUS_PRO_1B.head_sizes, jnp.bfloat16)
    check_kernel("cudnn", "gpu", JANUS_PRO_1B.head_sizes, jnp.bfloat16)
    assert JANUS_PRO_1B.head_sizes == (128, 64)
    assert [available_kernels(platform) for platform in ("cpu", "gpu", "tpu")] == [
        ("einsum",),
        ("einsum", "cudnn"),
        ("einsum", "splash"),
    ]
