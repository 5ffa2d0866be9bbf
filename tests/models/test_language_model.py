"""The decoder: causality, padding, both forms of the KV cache, shared prefixes, scan and remat."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind
from corl_jax.models import shared_prefix
from corl_jax.models.attention_kernels import attend
from corl_jax.models.janus.config import JANUS_PRO_1B, TINY
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.language_model import LanguageModel, decodes_separately
from corl_jax.models.layers import apply_rotary, linear, rotary_angles, scan_layers, stack
from corl_jax.models.shared_prefix import attend_shared_prefix

N, L, D = 2, 9, 32


def causal(length):
    return jnp.tril(jnp.ones((length, length), bool))[None]


def run(lm, x, positions=None, mask=None):
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return lm(x, positions, causal(x.shape[1]) if mask is None else mask)[0]


def abstract_lm(cfg, remat="none", unroll=1):
    return nnx.eval_shape(
        lambda: LanguageModel(cfg, dtype=jnp.float32, remat=remat, unroll=unroll, rngs=nnx.Rngs(0))
    )


@pytest.fixture(scope="module")
def lm(model):
    return model.language_model


@pytest.fixture(scope="module")
def decoder(small):
    """Sizes of the decoder of the small model, and its parameters."""
    graphdef, params = small
    prefix = "language_model/"
    decoder_params = {
        path.removeprefix(prefix): leaf for path, leaf in params.items() if path.startswith(prefix)
    }
    return bind(graphdef, params).cfg.decoder, decoder_params


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(5), (N, L, D))


def test_no_state_depends_on_the_future(lm, x):
    """Gradient of one state by all inputs: zero after it and in other rows, not zero up to it."""
    position = 4
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(lm, x)[0, position] ** 2)))(x)
    magnitude = np.abs(grad).max(-1)
    assert (magnitude[0, : position + 1] > 0).all()
    np.testing.assert_array_equal(magnitude[0, position + 1 :], 0)
    np.testing.assert_array_equal(magnitude[1], 0)


def test_left_padding_changes_nothing(lm, x):
    pad = 3
    unpadded = jax.jit(run)(lm, x)
    junk = jax.random.normal(jax.random.key(9), (N, pad, D))
    padded = jnp.concatenate([junk, x], 1)
    mask = causal(L + pad) & (jnp.arange(L + pad) >= pad)[None, None]

    positions = jnp.broadcast_to(jnp.maximum(jnp.arange(L + pad) - pad, 0), (N, L + pad))
    states = run(lm, padded, positions, mask)
    assert np.isfinite(states).all()
    np.testing.assert_allclose(states[:, pad:], unpadded, atol=1e-5)

    # Positions may be shifted, since only their differences count.
    shifted = run(lm, padded, jnp.broadcast_to(jnp.arange(L + pad), (N, L + pad)), mask)
    np.testing.assert_allclose(shifted[:, pad:], unpadded, atol=1e-4)


def test_distances_between_positions_count(lm, x):
    positions = jnp.broadcast_to(jnp.arange(L), (N, L))
    assert np.abs(run(lm, x, positions // 2)[:, -1] - run(lm, x, positions)[:, -1]).max() > 1e-2


def test_angles_come_from_a_table_and_a_position_outside_it_gives_nan(lm, x):
    positions = jnp.broadcast_to(jnp.arange(L), (N, L))
    cos, sin = rotary_angles(positions, L, 8, 10000.0)
    angles = np.arange(L)[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cos[1, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin[1, :, 0], np.sin(angles), atol=1e-6)

    # A CPU would compute a cosine per layer, head and token.
    assert "cosine" not in jax.jit(run).lower(lm, x).as_text()
    assert np.isnan(run(lm, x, positions + 1)[:, -1]).all()


def test_padding_gives_finite_gradients(lm, x):
    # The first three queries attend to nothing at all.
    mask = causal(L) & (jnp.arange(L) >= 3)[None, None]
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(lm, x, None, mask)[:, 3:] ** 2)))(x)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[:, :3], 0)


@pytest.mark.parametrize("unroll", [1, 3])
def test_cached_decode_equals_the_full_forward(decoder, x, unroll):
    cfg, params = decoder
    graphdef, _ = nnx.split(abstract_lm(cfg, unroll=unroll))
    lm, stacked = bind(graphdef, params), unroll < cfg.depth
    assert len(lm.separate_layers()) == (0 if stacked else cfg.depth)
    prompt_length, cache_length = 4, L + 2  # two positions of the cache stay empty
    full = jax.jit(run)(lm, x)

    @jax.jit
    def forward(lm, x, cache, index):
        positions = index + jnp.arange(x.shape[1])
        mask = (jnp.arange(cache_length)[None, :] <= positions[:, None])[None]
        positions = jnp.broadcast_to(positions, x.shape[:2])
        return lm.cached(x, positions, mask, cache, index, lm.separate_layers())

    # The prompt at once, then token by token.
    states, cache = forward(lm, x[:, :prompt_length], lm.empty_cache(N, cache_length), 0)
    parts = [states]
    for i in range(prompt_length, L):
        states, cache = forward(lm, x[:, i : i + 1], cache, jnp.asarray(i))
        parts.append(states)

    np.testing.assert_allclose(jnp.concatenate(parts, 1), full, atol=1e-5)
    assert isinstance(cache.k, tuple) != stacked and cache.length == cache_length
    k = jnp.stack(cache.k)
    assert k.shape == (3, N, 2, cache_length, 8)
    assert k[:, :, :, :L].any((1, 2, 4)).all() and not k[:, :, :, L:].any()


def random_cache(rng, form):
    """The same numbers in either form."""
    k, v = (jnp.asarray(rng.normal(size=(3, N, 2, L, 8))) for _ in range(2))
    return KVCache(k, v) if form == "stacked" else KVCache(tuple(k), tuple(v))


@pytest.mark.parametrize("form", ["stacked", "separate"])
def test_a_write_changes_its_layer_and_position_and_grow_adds_zeros(rng, form):
    cache = random_cache(rng, form).grow(L + 2)
    assert cache.length == L + 2
    new_k, new_v = (jnp.asarray(rng.normal(size=(N, 2, 1, 8))) for _ in range(2))
    updated = cache.write(new_k, new_v, 1, L)

    for layer in range(3):
        for old, actual, new, stored in zip(
            cache.layer(layer, L + 2),
            updated.layer(layer, L + 2),
            (new_k, new_v),
            (updated.k[layer], updated.v[layer]),
            strict=True,
        ):
            expected = old.at[:, :, L].set(new[:, :, 0]) if layer == 1 else old
            np.testing.assert_array_equal(actual, expected)
            np.testing.assert_array_equal(stored, expected)
    assert not updated.k[2][:, :, L:].any() and not updated.k[1][:, :, L + 1 :].any()


@pytest.mark.parametrize("form", ["stacked", "separate"])
def test_a_fork_has_new_rows_and_shares_the_old_ones(rng, form):
    cache = random_cache(rng, form)
    fork = cache.fork(3).grow(5)
    assert fork.shared is cache and fork.length == 5 and cache.length == L
    assert fork.layer(0, 4)[0].shape == (3 * N, 2, 4, 8)
    assert not fork.layer(2, 5)[1].any()


def random_shared_prefix(rng, length, row_length, prompts=2, samples=3, prefix_length=7):
    """Queries, keys and values of prefix and rows, a mask over both, and both concatenated."""
    rows = prompts * samples
    q = jnp.asarray(rng.normal(size=(rows, length, 4, 8)), jnp.float32)
    prefix_kv = [
        jnp.asarray(rng.normal(size=(prompts, 2, prefix_length, 8)), jnp.float32) for _ in range(2)
    ]
    row_kv = [jnp.asarray(rng.normal(size=(rows, 2, row_length, 8)), jnp.float32) for _ in range(2)]
    mask = jnp.asarray(rng.random((rows, length, prefix_length + row_length)) < 0.6)
    mask = mask.at[0, 0].set(False)
    full_kv = [
        jnp.concatenate([jnp.repeat(prefix, samples, 0), row], 2)
        for prefix, row in zip(prefix_kv, row_kv, strict=True)
    ]
    return q, prefix_kv, row_kv, mask, full_kv


@pytest.mark.parametrize("length", [1, 3])
def test_attention_with_a_shared_prefix_equals_attention_to_the_concatenation(rng, length):
    q, prefix_kv, row_kv, mask, full_kv = random_shared_prefix(rng, length, row_length=4)
    actual = attend_shared_prefix(q, prefix_kv, row_kv, mask)
    np.testing.assert_allclose(actual, attend(q, *full_kv, mask), rtol=1e-5, atol=1e-6)


def test_attention_block_by_block_equals_attention_at_once(rng, monkeypatch):
    monkeypatch.setattr(shared_prefix, "BLOCK", 2)
    q, prefix_kv, row_kv, mask, full_kv = random_shared_prefix(rng, length=5, row_length=5)
    mask = mask & (jnp.arange(12) - 7 <= jnp.arange(5)[:, None]) | (jnp.arange(12) == 0)
    actual = shared_prefix.attend_shared_prefix_causally(q, prefix_kv, row_kv, mask)
    np.testing.assert_allclose(actual, attend(q, *full_kv, mask), rtol=1e-5, atol=1e-6)


def test_scan_equals_a_python_loop(lm, x):
    scanned = jax.jit(run)(lm, x)
    graphdef, state = nnx.split(lm.layers)
    rope = rotary_angles(jnp.broadcast_to(jnp.arange(L), (N, L)), L, 8, lm.cfg.rope_theta)
    y = x
    for i in range(3):
        block = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        y, _ = block(y, rope, causal(L), None, i, 0)
    np.testing.assert_allclose(lm.norm(y), scanned, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "platform", "separate"),
    [(JANUS_PRO_1B, "gpu", True), (JANUS_PRO_1B, "tpu", False), (TINY, "gpu", False)],
)
def test_large_models_decode_layer_by_layer_on_a_gpu(size, platform, separate):
    assert decodes_separately(size.decoder, jnp.bfloat16, platform) == separate


def test_unrolling_removes_the_loop_and_changes_no_state(decoder, x):
    cfg, params = decoder
    states, has_loop = {}, {}
    for unroll in (1, 2, 8):  # 8 is more than there are layers
        graphdef, _ = nnx.split(abstract_lm(cfg, unroll=unroll))
        lowered = jax.jit(lambda p, g=graphdef: run(bind(g, p), x)).lower(params)
        states[unroll] = lowered.compile()(params)
        has_loop[unroll] = "stablehlo.while" in lowered.as_text()
    assert has_loop[1] and not has_loop[8]
    for unroll in (2, 8):
        np.testing.assert_allclose(states[unroll], states[1], atol=1e-5)


def test_layers_are_initialized_differently():
    layers = stack(
        lambda rngs: linear(64, 48, ("embed", "mlp"), bias=False, dtype=None, rngs=rngs),
        3,
        nnx.Rngs(0),
    )
    kernel = np.asarray(layers.kernel[...])
    assert kernel.shape == (3, 64, 48) and not np.allclose(kernel[0], kernel[1])
    # The fan-in is that of one layer, not of the stack.
    np.testing.assert_allclose(kernel.std((1, 2)), 64**-0.5, rtol=0.1)


@pytest.fixture(scope="module")
def gradients_and_jaxprs(decoder, x):
    """By remat policy."""
    cfg, params = decoder
    gradients, jaxprs = {}, {}
    for remat in ("none", "full", "dots"):
        graphdef, _ = nnx.split(abstract_lm(cfg, remat=remat))

        def loss(params, graphdef=graphdef):
            return jnp.sum(jnp.sin(run(bind(graphdef, params), x)))

        traced = jax.jit(jax.grad(loss)).trace(params)
        gradients[remat] = traced.lower().compile()(params)
        jaxprs[remat] = str(traced.jaxpr)
    return gradients, jaxprs


def test_remat_changes_no_gradient(gradients_and_jaxprs):
    gradients, _ = gradients_and_jaxprs
    for remat in ("full", "dots"):
        for path, expected in gradients["none"].items():
            grad = gradients[remat][path]
            np.testing.assert_allclose(grad, expected, atol=2e-5, rtol=1e-4, err_msg=path)


def test_remat_is_in_the_program(gradients_and_jaxprs):
    _, jaxprs = gradients_and_jaxprs
    assert "checkpoint" not in jaxprs["none"] and "remat" not in jaxprs["none"]
    for remat in ("full", "dots"):
        assert "checkpoint" in jaxprs[remat] or "remat" in jaxprs[remat]


def test_an_unknown_remat_policy_is_refused():
    layers = stack(lambda rngs: nnx.Linear(2, 2, rngs=rngs), 2, nnx.Rngs(0))
    with pytest.raises(
        UserError, match="config.model.remat must be one of none, full, dots; got 'ful'"
    ):
        scan_layers(layers, lambda layer, s: layer(s[1]), jnp.ones((1, 2)), 2, jnp.float32, "ful")


def test_rotation_keeps_norms_and_depends_on_differences_only(rng):
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def rotate(vector, position):
        return apply_rotary(vector, *rotary_angles(jnp.asarray([[position]]), 128, 8, 10000.0))

    np.testing.assert_allclose(jnp.linalg.norm(rotate(q, 7)), jnp.linalg.norm(q), rtol=1e-5)
    np.testing.assert_allclose(
        jnp.vdot(rotate(q, 7), rotate(k, 4)), jnp.vdot(rotate(q, 103), rotate(k, 100)), atol=1e-4
    )
    np.testing.assert_array_equal(rotate(q, 0), q)


def test_attention_by_hand_with_shared_heads(rng):
    q, k, v = (rng.normal(size=(1, 3, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
    mask = np.tril(np.ones((3, 3), bool))
    k_NKSC, v_NKSC = (jnp.asarray(array).swapaxes(1, 2) for array in (k, v))
    mixed = attend(jnp.asarray(q), k_NKSC, v_NKSC, jnp.asarray(mask)[None])
    for head in range(4):
        logits = np.where(mask, q[0, :, head] @ k[0, :, head // 2].T / 2, -np.inf)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(mixed[0, :, head], weights @ v[0, :, head // 2], atol=1e-5)


def test_prompts_and_completions_share_the_products_with_parameters(lm, x):
    """One product per kernel makes one gradient of both, which devices sum once."""
    samples, length = 3, 4
    rows = N * samples
    completions = jax.random.normal(jax.random.key(7), (rows, length, D))
    positions = jnp.broadcast_to(jnp.arange(L + length), (rows, L + length))
    mask = jnp.broadcast_to(causal(L + length), (rows, L + length, L + length))
    graphdef, state = nnx.split(lm)

    def run_shared(state, x):
        lm = nnx.merge(graphdef, state)
        prompts = (x, positions[:N, :L], jnp.broadcast_to(causal(L), (N, L, L)))
        return lm.with_shared_prefix(prompts, (completions, positions[:, L:], mask[:, L:]))

    # The states are those of prompts and completions concatenated.
    prompt_states, completion_states = run_shared(state, x)
    concatenated = jnp.concatenate([jnp.repeat(x, samples, 0), completions], 1)
    expected = run(lm, concatenated, positions, mask)
    np.testing.assert_allclose(prompt_states, expected[::samples, :L], atol=1e-5)
    np.testing.assert_allclose(completion_states, expected[:, L:], atol=1e-5)

    def loss(state, x):
        return sum(jnp.sum(states**2) for states in run_shared(state, x))

    # Gradients of gate, up and down: three products in one iteration of the loop over layers.
    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(state, x))
    mlp_dim = lm.cfg.mlp_dim
    kernel_gradient = re.compile(rf"f32\[({D},{mlp_dim}|{mlp_dim},{D})\] = dot_general")
    assert len([line for line in jaxpr.splitlines() if kernel_gradient.search(line)]) == 3
