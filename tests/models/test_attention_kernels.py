"""Every attention kernel equals the plain one, wherever a CPU can run it; elsewhere it is refused in one line."""

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
from corl_jax.models import attention_kernels as room
from corl_jax.models.attention_kernels import attend, available, check, kernels
from corl_jax.models.janus.config import JANUS_PRO_1B, TINY
from corl_jax.models.janus.model import abstract
from corl_jax.sampling.prompt_layout import prompt_mask

HEADS, KV_HEADS, SIZE = 4, 2, 16


def behind(prompts, samples, length):
    """A prompt and then ``samples`` pieces that see it and their own past: blocks that no causal mask has."""
    sample, step = jnp.divmod(jnp.arange(samples * length), length)
    own = (sample[:, None] == sample) & (step[:, None] >= step)
    whole = jnp.pad(prompts, ((0, 0), (0, samples * length)), constant_values=True)
    width = prompts.shape[1]
    return prompt_mask(whole).at[:, width:, width:].set(own)


def arguments(rng, rows, length, keys):
    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return (
        draw(rows, length, HEADS, SIZE),
        draw(rows, KV_HEADS, keys, SIZE),
        draw(rows, KV_HEADS, keys, SIZE),
    )


def left_padded(*real, length):
    return jnp.asarray(np.arange(length)[None] >= length - np.array(real)[:, None])


def masks():
    """Mask, and which of its queries anybody reads."""
    prompts = left_padded(20, 13, length=20)
    blocks = behind(prompts, 3, 5)
    long = left_padded(140, 3, length=140)
    return {
        "none": (None, jnp.ones((2, 20), bool), 20),
        "padded": (prompt_mask(prompts), prompts, 20),
        "shared prefix": (blocks, jnp.pad(prompts, ((0, 0), (0, 15)), constant_values=True), 35),
        "two blocks": (prompt_mask(long), long, 140),
    }


def value_and_gradients(mix, args, mask, read):
    def loss(q, k, v):
        out = mix(q, k, v, mask)
        seen = jnp.where(read[..., None, None], out, 0)
        return jnp.sum(jnp.sin(seen)), (seen, jnp.isfinite(out).all())

    (_, (seen, finite)), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*args)
    assert finite  # what nobody reads too: a later layer multiplies it by 0
    return seen, *grads


def assert_equal_to_einsum(name, mask_name, rng):
    mask, read, keys = masks()[mask_name]
    args = arguments(rng, 2, read.shape[1], keys)
    wanted = value_and_gradients(attend, args, mask, read)
    got = value_and_gradients(kernels[name].attend, args, mask, read)
    for one, other, what in zip(wanted, got, ("out", "q", "k", "v"), strict=True):
        assert np.abs(one).max() > 0.1, what
        np.testing.assert_allclose(other, one, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("mask_name", ["none", "shared prefix", "two blocks"])
def test_splash_equals_einsum(rng, mask_name, monkeypatch):
    """Short blocks, so that of the longest mask a whole row of blocks is empty, which would divide by 0."""
    monkeypatch.setattr(room, "LONGEST_BLOCK", 128)
    with pallas_tpu.force_tpu_interpret_mode():
        assert_equal_to_einsum("splash", mask_name, rng)


@pytest.mark.parametrize("mask_name", ["none", "shared prefix"])
def test_what_is_handed_to_cudnn_gives_what_einsum_gives(rng, mask_name, monkeypatch):
    """The library's own plain implementation in the place of the GPU's, over the same arguments."""
    plain = jax.nn.dot_product_attention

    def stand_in(q, k, v, mask, implementation):
        assert implementation == "cudnn" and q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
        return plain(q, k, v, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    assert_equal_to_einsum("cudnn", mask_name, rng)


def test_kernels_run_on_each_devices_own_rows_and_heads(rng, monkeypatch):
    mask, read, keys = masks()["padded"]
    args = arguments(rng, 2, 20, keys)
    seen = []

    def spy(q, k, v, mask):
        seen.append((q.shape, k.shape, mask.shape))
        return attend(q, k, v, mask)

    sharder = Sharder(make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4]))
    on_each = functools.partial(room._on_each_device, spy)
    with sharding_context(sharder):
        got = jax.jit(on_each)(*args, mask)
        shared = jax.jit(on_each)(*args, jnp.ones((1, 20, 20), bool))
        odd = jax.jit(on_each)(
            *(jnp.concatenate([a, a[:1]]) for a in (*args, mask))
        )  # 3 rows over 2 devices
    assert seen[0] == ((1, 20, 2, SIZE), (1, 1, 20, SIZE), (1, 20, 20)) and seen[1][2] == (
        1,
        20,
        20,
    )
    np.testing.assert_allclose(got, attend(*args, mask), atol=1e-6)
    np.testing.assert_allclose(odd[:2], got, atol=1e-6)
    np.testing.assert_allclose(shared, attend(*args, None), atol=1e-6)
    three = (
        jnp.concatenate([args[0], args[0]], 2)[:, :, :6],
        *(jnp.concatenate([a, a], 1)[:, :3] for a in args[1:]),
    )
    with (
        sharding_context(sharder),
        pytest.raises(UserError, match="attention: an axis of size 3 does not divide over 2"),
    ):
        on_each(*three, mask)


@pytest.mark.parametrize("rows", [1, 2])
def test_splash_lowers_for_a_tpu_without_one(rows):
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.bfloat16)
        for s in ((2, 600, 4, 128), (2, 2, 600, 128), (2, 2, 600, 128))
    ]
    mask = jax.ShapeDtypeStruct((rows, 600, 600), bool)

    def loss(q, k, v, mask):
        return jnp.sum(kernels["splash"].attend(q, k, v, mask).astype(jnp.float32))

    text = (
        jax.jit(jax.grad(loss, (0, 1, 2)))
        .trace(*shapes, mask)
        .lower(lowering_platforms=("tpu",))
        .as_text()
    )
    assert (
        text.count("tpu_custom_call") >= 3
    )  # forward, gradient of queries, gradient of keys and values


def test_the_model_names_its_kernel_once_and_decodes_with_the_plain_one(monkeypatch):
    called = []

    def spy(q, k, v, mask):
        called.append(q.shape)
        return attend(q, k, v, mask)

    monkeypatch.setitem(kernels._items, "spy", room.Kernel(spy))
    graphdef, cfg = nnx.split(abstract(TINY, attention="spy"))[0], TINY.decoder

    def run(params, length):
        model = bind(graphdef, params)
        cache, mask = model.language_model.empty_cache(2, 12), jnp.ones((2, length, 12), bool)
        x, positions = jnp.zeros((2, length, cfg.width)), jnp.zeros((2, length), int)
        states, _ = model.language_model.cached(x, positions, mask, cache, 0, ())
        return states, model.embed_images(jnp.zeros((1, 48, 48, 3)))

    shapes = flatten_abstract(abstract(TINY))
    jax.eval_shape(functools.partial(run, length=5), shapes)
    assert set(called) == {(2, 5, 4, 32), (1, 36, 4, 32)}
    called.clear()
    jax.eval_shape(functools.partial(run, length=1), shapes)
    assert set(called) == {(1, 36, 4, 32)}


@pytest.mark.parametrize(
    ("name", "platform", "heads", "dtype", "says"),
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
            "'splash' takes heads of up to 128 .*, not 192; .*=einsum",
        ),
        (
            "cudnn",
            "gpu",
            (64, 20),
            jnp.bfloat16,
            "'cudnn' takes heads of a multiple of 8 up to 128, not 20",
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
def test_what_cannot_run_is_refused_by_name(name, platform, heads, dtype, says):
    with pytest.raises(UserError, match=says):
        check(name, platform, heads, dtype)


def test_released_sizes_may_use_every_kernel():
    check("splash", "tpu", JANUS_PRO_1B.head_sizes, jnp.bfloat16)
    check("cudnn", "gpu", JANUS_PRO_1B.head_sizes, jnp.bfloat16)
    assert JANUS_PRO_1B.head_sizes == (128, 64)
    assert [available(p) for p in ("cpu", "gpu", "tpu")] == [
        ("einsum",),
        ("einsum", "cudnn"),
        ("einsum", "splash"),
    ]
