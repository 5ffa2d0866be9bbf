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
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.language_model import LanguageModel
from corl_jax.models.layers import linear, rotary, rotate, scan_layers, stack
from corl_jax.models.shared_prefix import attend_shared_prefix

N, L, D = 2, 9, 32


def causal(length):
    return jnp.tril(jnp.ones((length, length), bool))[None]


def run(lm, x, positions=None, mask=None):
    positions = (
        jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]) if positions is None else positions
    )
    return lm(x, positions, causal(x.shape[1]) if mask is None else mask)[0]


@pytest.fixture(scope="module")
def lm(model):
    return model.language_model


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(5), (N, L, D))


def test_no_state_depends_on_the_future(lm, x):
    """Gradient of one state by all inputs: zero after it and in other rows, not zero up to it."""
    at = 4
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(lm, x)[0, at] ** 2)))(x)
    size = np.abs(grad).max(-1)
    assert (size[0, : at + 1] > 0).all()
    np.testing.assert_array_equal(size[0, at + 1 :], 0)
    np.testing.assert_array_equal(size[1], 0)


def test_left_padding_changes_nothing(lm, x):
    pad = 3
    plain = jax.jit(run)(lm, x)
    junk = jax.random.normal(jax.random.key(9), (N, pad, D))
    padded = jnp.concatenate([junk, x], 1)
    mask = causal(L + pad) & (jnp.arange(L + pad) >= pad)[None, None]
    positions = jnp.broadcast_to(jnp.maximum(jnp.arange(L + pad) - pad, 0), (N, L + pad))
    from_zero = run(lm, padded, positions, mask)
    assert np.isfinite(from_zero).all()
    np.testing.assert_allclose(from_zero[:, pad:], plain, atol=1e-5)
    shifted = run(lm, padded, jnp.broadcast_to(jnp.arange(L + pad), (N, L + pad)), mask)
    np.testing.assert_allclose(
        shifted[:, pad:], plain, atol=1e-4
    )  # only differences of positions count


def test_distances_between_positions_count(lm, x):
    far = jnp.broadcast_to(jnp.arange(L), (N, L))
    assert np.abs(run(lm, x, far // 2)[:, -1] - run(lm, x, far)[:, -1]).max() > 1e-2


def test_angles_are_looked_up_and_a_position_outside_the_mask_is_no_number(lm, x):
    far = jnp.broadcast_to(jnp.arange(L), (N, L))
    cos, sin = rotary(far, L, 8, 10000.0)
    angles = np.arange(L)[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cos[1, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin[1, :, 0], np.sin(angles), atol=1e-6)
    assert (
        "cosine" not in jax.jit(run).lower(lm, x).as_text()
    )  # a CPU would take one per layer, head and token
    assert np.isnan(run(lm, x, far + 1)[:, -1]).all()


def test_padding_gives_finite_gradients(lm, x):
    mask = (
        causal(L) & (jnp.arange(L) >= 3)[None, None]
    )  # the first three queries see nothing at all
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(lm, x, None, mask)[:, 3:] ** 2)))(x)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[:, :3], 0)


@pytest.mark.parametrize("unroll", [1, 3])
def test_cached_decode_equals_the_full_forward(small, x, unroll):
    cfg, params = decoder_of(small)
    shapes = nnx.eval_shape(
        lambda: LanguageModel(cfg, dtype=jnp.float32, remat="none", unroll=unroll, rngs=nnx.Rngs(0))
    )
    lm, stacked = bind(nnx.split(shapes)[0], params), unroll < cfg.depth
    assert len(lm.separate_layers()) == (0 if stacked else cfg.depth)
    prompt, longer = 4, L + 2  # two cache slots stay empty
    full = jax.jit(run)(lm, x)
    slots = jnp.arange(longer)

    @jax.jit
    def forward(lm, x, cache, index):
        at = index + jnp.arange(x.shape[1])
        mask = (slots[None, :] <= at[:, None])[None]
        return lm.cached(
            x, jnp.broadcast_to(at, x.shape[:2]), mask, cache, index, lm.separate_layers()
        )

    states, cache = forward(lm, x[:, :prompt], lm.empty_cache(N, longer), 0)
    pieces = [states]
    for i in range(prompt, L):
        states, cache = forward(lm, x[:, i : i + 1], cache, jnp.asarray(i))
        pieces.append(states)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), full, atol=1e-5)
    assert isinstance(cache.k, tuple) != stacked and cache.length == longer
    k = jnp.stack(cache.k)
    assert (
        k.shape == (3, N, 2, longer, 8)
        and k[:, :, :, :L].any((1, 2, 4)).all()
        and not k[:, :, :, L:].any()
    )


def caches(rng):
    """The same numbers in both forms."""
    k, v = (jnp.asarray(rng.normal(size=(3, N, 2, L, 8))) for _ in range(2))
    return {"stacked": KVCache(k, v), "one by one": KVCache(tuple(k), tuple(v))}


@pytest.mark.parametrize("form", ["stacked", "one by one"])
def test_cache_is_written_where_it_was_told_and_grows_at_its_end(rng, form):
    cache = caches(rng)[form].grow(L + 2)
    assert cache.length == L + 2
    new_k, new_v = (jnp.asarray(rng.normal(size=(N, 2, 1, 8))) for _ in range(2))
    after = cache.write(new_k, new_v, 1, L)
    for layer in range(3):
        for old, now, new, here in zip(
            cache.layer(layer, L + 2, float),
            after.layer(layer, L + 2, float),
            (new_k, new_v),
            (after.k[layer], after.v[layer]),
            strict=True,
        ):
            expected = old.at[:, :, L].set(new[:, :, 0]) if layer == 1 else old
            np.testing.assert_array_equal(now, expected)
            np.testing.assert_array_equal(here, expected)
    assert not after.k[2][:, :, L:].any() and not after.k[1][:, :, L + 1 :].any()


@pytest.mark.parametrize("form", ["stacked", "one by one"])
def test_a_branch_has_rows_of_its_own_behind_the_shared_ones(rng, form):
    cache = caches(rng)[form]
    branch = cache.fork(3).grow(5)
    assert branch.shared is cache and branch.length == 5 and cache.length == L
    assert (
        branch.layer(0, 4, float)[0].shape == (3 * N, 2, 4, 8)
        and not branch.layer(2, 5, float)[1].any()
    )


def shared_and_own(rng, length, own, rows=2, times=3, prefix=7):
    """Queries, keys and values of a shared part and of each row, a mask over both, and all keys and values by row."""
    q = jnp.asarray(rng.normal(size=(rows * times, length, 4, 8)), jnp.float32)
    shared = [jnp.asarray(rng.normal(size=(rows, 2, prefix, 8)), jnp.float32) for _ in range(2)]
    mine = [jnp.asarray(rng.normal(size=(rows * times, 2, own, 8)), jnp.float32) for _ in range(2)]
    mask = jnp.asarray(rng.random((rows * times, length, prefix + own)) < 0.6).at[0, 0].set(False)
    whole = [
        jnp.concatenate([jnp.repeat(a, times, 0), b], 2) for a, b in zip(shared, mine, strict=True)
    ]
    return q, shared, mine, mask, whole


@pytest.mark.parametrize("length", [1, 3])
def test_attention_behind_a_shared_part_equals_attention_to_all_of_it(rng, length):
    q, shared, mine, mask, whole = shared_and_own(rng, length, own=4)
    np.testing.assert_allclose(
        attend_shared_prefix(q, shared, mine, mask), attend(q, *whole, mask), rtol=1e-5, atol=1e-6
    )


def test_attention_block_by_block_equals_attention_at_once(rng, monkeypatch):
    monkeypatch.setattr(shared_prefix, "BLOCK", 2)
    q, shared, mine, mask, whole = shared_and_own(rng, length=5, own=5)
    mask = mask & (jnp.arange(12) - 7 <= jnp.arange(5)[:, None]) | (jnp.arange(12) == 0)
    found = shared_prefix.attend_shared_prefix_causally(q, shared, mine, mask)
    np.testing.assert_allclose(found, attend(q, *whole, mask), rtol=1e-5, atol=1e-6)


def test_scan_equals_an_unrolled_loop(lm, x):
    scanned = jax.jit(run)(lm, x)
    graphdef, state = nnx.split(lm.layers)
    rope = rotary(jnp.broadcast_to(jnp.arange(L), (N, L)), L, 8, lm.cfg.rope_theta)
    y = x
    for i in range(3):
        block = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        y, _ = block(y, rope, causal(L), None, i, 0)
    np.testing.assert_allclose(lm.norm(y), scanned, atol=1e-5)


def test_unrolling_removes_the_loop_and_changes_no_state(small, x):
    cfg, params = decoder_of(small)
    out = {}
    for unroll in (1, 2, 8):  # 8 is more than there are layers
        shapes = nnx.eval_shape(
            lambda u=unroll: LanguageModel(
                cfg, dtype=jnp.float32, remat="none", unroll=u, rngs=nnx.Rngs(0)
            )
        )
        graphdef, _ = nnx.split(shapes)
        lowered = jax.jit(lambda p, g=graphdef: run(bind(g, p), x)).lower(params)
        out[unroll] = (lowered.compile()(params), "stablehlo.while" in lowered.as_text())
    assert out[1][1] and not out[8][1]
    for unroll in (2, 8):
        np.testing.assert_allclose(out[unroll][0], out[1][0], atol=1e-5)


def test_layers_are_initialised_differently():
    layers = stack(
        lambda rngs: linear(64, 48, ("embed", "mlp"), bias=False, dtype=None, rngs=rngs),
        3,
        nnx.Rngs(0),
    )
    kernel = np.asarray(layers.kernel[...])
    assert kernel.shape == (3, 64, 48) and not np.allclose(kernel[0], kernel[1])
    np.testing.assert_allclose(
        kernel.std((1, 2)), 64**-0.5, rtol=0.1
    )  # fan-in of one layer, not of the stack


def decoder_of(small):
    params = {
        k.removeprefix("language_model/"): v
        for k, v in small[1].items()
        if k.startswith("language_model/")
    }
    return bind(*small).cfg.decoder, params


@pytest.fixture(scope="module")
def by_policy(small, x):
    cfg, params = decoder_of(small)
    out = {}
    for remat in ("none", "full", "dots"):
        shapes = nnx.eval_shape(
            lambda r=remat: LanguageModel(cfg, dtype=jnp.float32, remat=r, rngs=nnx.Rngs(0))
        )
        graphdef, _ = nnx.split(shapes)
        traced = jax.jit(
            jax.grad(lambda p, g=graphdef: jnp.sum(jnp.sin(run(bind(g, p), x))))
        ).trace(params)
        out[remat] = (traced.lower().compile()(params), str(traced.jaxpr))
    return out


def test_remat_changes_no_gradient(by_policy):
    for remat in ("full", "dots"):
        for path, grad in by_policy["none"][0].items():
            np.testing.assert_allclose(
                by_policy[remat][0][path], grad, atol=2e-5, rtol=1e-4, err_msg=path
            )


def test_remat_is_really_on(by_policy):
    assert "checkpoint" not in by_policy["none"][1] and "remat" not in by_policy["none"][1]
    for remat in ("full", "dots"):
        assert "checkpoint" in by_policy[remat][1] or "remat" in by_policy[remat][1]


def test_unknown_remat_is_named():
    layers = stack(lambda rngs: nnx.Linear(2, 2, rngs=rngs), 2, nnx.Rngs(0))
    with pytest.raises(
        UserError, match="unknown remat policy 'ful'; expected one of none, full, dots"
    ):
        scan_layers(layers, lambda layer, s: layer(s[1]), jnp.ones((1, 2)), 2, jnp.float32, "ful")


def test_rotation_keeps_norms_and_depends_on_differences_only(rng):
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def at(vector, position):
        return rotate(vector, *rotary(jnp.asarray([[position]]), 128, 8, 10000.0))

    np.testing.assert_allclose(jnp.linalg.norm(at(q, 7)), jnp.linalg.norm(q), rtol=1e-5)
    np.testing.assert_allclose(
        jnp.vdot(at(q, 7), at(k, 4)), jnp.vdot(at(q, 103), at(k, 100)), atol=1e-4
    )
    np.testing.assert_array_equal(at(q, 0), q)


def test_attention_by_hand_with_shared_heads(rng):
    q, k, v = (rng.normal(size=(1, 3, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
    mask = np.tril(np.ones((3, 3), bool))
    got = attend(
        jnp.asarray(q), *(jnp.asarray(a).swapaxes(1, 2) for a in (k, v)), jnp.asarray(mask)[None]
    )
    for head in range(4):
        scores = np.where(mask, q[0, :, head] @ k[0, :, head // 2].T / 2, -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(got[0, :, head], weights @ v[0, :, head // 2], atol=1e-5)


def test_what_shares_a_prompt_shares_the_products_with_parameters(lm, x):
    """One product per kernel makes its gradient, of prompts and what follows them at once, so devices add up one."""
    samples, own = 3, 4
    behind = jax.random.normal(jax.random.key(7), (N * samples, own, D))
    whole = jnp.ones((N * samples, L + own), bool)
    positions = jnp.broadcast_to(jnp.arange(L + own), whole.shape)
    mask = jnp.broadcast_to(causal(L + own), (N * samples, L + own, L + own))
    graphdef, state = nnx.split(lm)

    def run_pair(state, x):
        trunk = nnx.merge(graphdef, state)
        asked = (x, positions[:N, :L], jnp.broadcast_to(causal(L), (N, L, L)))
        return trunk.with_shared_prefix(asked, (behind, positions[:, L:], mask[:, L:]))

    states, after = run_pair(state, x)
    alone = run(lm, jnp.concatenate([jnp.repeat(x, samples, 0), behind], 1), positions, mask)
    np.testing.assert_allclose(states, alone[::samples, :L], atol=1e-5)
    np.testing.assert_allclose(after, alone[:, L:], atol=1e-5)
    text = str(
        jax.make_jaxpr(jax.grad(lambda state, x: sum(jnp.sum(one**2) for one in run_pair(state, x))))(
            state, x
        )
    )
    mlp = lm.cfg.mlp_dim
    products = [
        line
        for line in text.splitlines()
        if re.search(rf"f32\[({D},{mlp}|{mlp},{D})\] = dot_general", line)
    ]
    assert len(products) == 3  # of gate, up and down, in one turn of the loop over layers
