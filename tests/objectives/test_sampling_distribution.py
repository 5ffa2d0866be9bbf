import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.rng import sample_keys, stream
from corl_jax.objectives.sampling_distribution import (
    GREEDY_BELOW,
    SamplingParams,
    check_sampling_params,
    entropy,
    log_distribution,
    sample_tokens,
    token_log_probs,
)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return (
        x
        - x.max(-1, keepdims=True)
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
    )


@pytest.fixture
def logits(rng):
    return rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 5.0])
def test_guidance_formula(logits, weight):
    c, u = logits
    log_probs = log_distribution(c, u, SamplingParams(guidance_scale=weight))
    np.testing.assert_allclose(log_probs, log_softmax(u + weight * (c - u)), atol=2e-6)


def test_without_unconditional_logits_guidance_is_not_used(logits):
    log_probs = log_distribution(logits[0], None, SamplingParams(guidance_scale=5.0))
    np.testing.assert_allclose(log_probs, log_softmax(logits[0]), atol=1e-6)


def test_temperature_divides_guided_logits(logits):
    c, u = logits
    got = log_distribution(c, u, SamplingParams(guidance_scale=3.0, temperature=0.7))
    np.testing.assert_allclose(got, log_softmax((u + 3 * (c - u)) / 0.7), atol=1e-5)


def test_top_k_keeps_k_and_renormalises(logits):
    got = np.exp(log_distribution(logits[0], None, SamplingParams(top_k=3)))
    for row, probs in zip(logits[0], got, strict=True):
        top = np.argsort(row)[-3:]
        assert set(np.flatnonzero(probs)) == set(top)
        np.testing.assert_allclose(probs[top], np.exp(log_softmax(row[top])), rtol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probs = np.asarray([[0.5, 0.3, 0.15, 0.05]])
    for top_p, expected in (
        (0.4, [1, 0, 0, 0]),
        (0.6, [0.625, 0.375, 0, 0]),
        (0.94, [10 / 19, 6 / 19, 3 / 19, 0]),
    ):
        got = np.exp(log_distribution(np.log(probs), None, SamplingParams(top_p=top_p)))
        np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-12)
        traced = jax.jit(lambda s: log_distribution(np.log(probs), None, s))(
            SamplingParams(top_p=top_p)
        )
        np.testing.assert_allclose(np.exp(traced)[0], expected, rtol=1e-5, atol=1e-12)


def test_banned_ids_have_probability_zero_and_the_rest_sums_to_one(logits):
    banned = np.zeros(8, bool)
    banned[[0, 5]] = True
    got = log_distribution(
        logits[0],
        logits[1],
        SamplingParams(guidance_scale=2.0, temperature=1.5, banned=jnp.asarray(banned)),
    )
    assert np.isfinite(got).all() and (np.exp(got)[:, banned] == 0).all()
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-5)
    keys = sample_keys(stream(0, "t"), 300)
    tokens, _ = sample_tokens(keys, jnp.repeat(got, 100, 0), SamplingParams())
    assert not np.isin(tokens, [0, 5]).any() and len(set(np.asarray(tokens).tolist())) > 3


def test_bans_come_before_top_k(logits):
    best = np.argmax(logits[0][0])
    got = log_distribution(
        logits[0][:1], None, SamplingParams(top_k=2, banned=jnp.arange(8) == best)
    )
    assert np.count_nonzero(np.exp(got)) == 2 and np.exp(got)[0, best] == 0


def test_greedy_sampling_at_temperature_zero_has_log_probs_of_temperature_one(logits):
    params = SamplingParams(temperature=0.0)
    distribution = log_distribution(logits[0], None, params)
    np.testing.assert_allclose(distribution, log_softmax(logits[0]), atol=1e-6)
    tokens, log_probs = sample_tokens(sample_keys(stream(0, "t"), 3), distribution, params)
    np.testing.assert_array_equal(tokens, logits[0].argmax(-1))
    np.testing.assert_allclose(log_probs, log_softmax(logits[0]).max(-1), atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-45, 1e-9, 9e-6])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-3])
def test_a_tiny_temperature_is_greedy(rng, temperature, scale):
    """Also between equal logits, which bfloat16 heads have often; nothing is NaN."""
    logits = (scale * np.round(rng.normal(size=(64, 16)), 1)).astype(np.float32)
    params = SamplingParams(temperature=jnp.float32(temperature), banned=jnp.arange(16) < 2)
    keys = sample_keys(stream(0, "t"), 64)
    distribution = log_distribution(logits, None, params)
    tokens, log_probs = sample_tokens(keys, distribution, params)

    greedy_params = SamplingParams(temperature=jnp.float32(0), banned=params.banned)
    greedy = log_distribution(logits, None, greedy_params)
    greedy_tokens, greedy_log_probs = sample_tokens(keys, greedy, greedy_params)
    np.testing.assert_array_equal(tokens, 2 + logits[:, 2:].argmax(-1))
    np.testing.assert_array_equal(tokens, greedy_tokens)
    np.testing.assert_array_equal(log_probs, greedy_log_probs)
    assert np.isfinite(distribution).all()


@pytest.mark.parametrize("temperature", [GREEDY_BELOW, 1e-4, 0.01])
def test_a_low_temperature_loses_no_small_difference(temperature):
    """Of large logits; a division before the largest is subtracted would round it away."""
    gap = float(np.spacing(np.float32(100)))
    logits = np.array([100, np.float32(100) - np.float32(gap), 3], np.float32)
    params = SamplingParams(temperature=temperature)
    got, gradient = jax.value_and_grad(lambda x: log_distribution(x, None, params)[1])(logits)
    expected = log_softmax([0, -gap / np.float64(np.float32(temperature)), -1e30])[1]
    assert got == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_at_temperature_one_the_bits_are_those_of_log_softmax(logits):
    for x in (logits[0], 50 * logits[1]):
        got = log_distribution(x, None, SamplingParams())
        np.testing.assert_array_equal(got, jax.nn.log_softmax(x, -1))


def test_samples_have_the_log_probs_of_the_distribution_and_depend_on_the_key_of_their_row(logits):
    distribution = log_distribution(
        *logits, SamplingParams(guidance_scale=2.0, temperature=1.3, top_k=4, top_p=0.9)
    )
    keys = sample_keys(stream(1, "t"), 3)
    tokens, log_probs = sample_tokens(keys, distribution, SamplingParams())
    np.testing.assert_array_equal(log_probs, token_log_probs(distribution, tokens))
    assert (np.asarray(log_probs) > -50).all() and tokens.dtype == jnp.int32
    last_row, _ = sample_tokens(keys[2:], distribution[2:], SamplingParams())
    assert last_row[0] == tokens[2]


def test_sample_frequencies_follow_the_distribution():
    log_probs = jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
    tokens, _ = sample_tokens(
        sample_keys(stream(0, "t"), 4000), jnp.tile(log_probs, (4000, 1)), SamplingParams()
    )
    np.testing.assert_allclose(np.bincount(tokens) / 4000, [0.5, 0.3, 0.2], atol=0.03)


@pytest.mark.parametrize("params", [
    SamplingParams(guidance_scale=3.0, temperature=0.5, banned=np.arange(8) < 2),
    SamplingParams(guidance_scale=3.0, top_k=3, top_p=0.8, banned=np.arange(8) < 2),
])  # fmt: skip
def test_gradients_are_finite_with_bans(logits, params):
    def loss(c, u):
        log_probs = log_distribution(c, u, params)
        best = token_log_probs(log_probs, jnp.argmax(log_probs, -1))
        return jnp.sum(best) + jnp.sum(entropy(log_probs))

    for grad in jax.grad(loss, (0, 1))(*map(jnp.asarray, logits)):
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0
        np.testing.assert_array_equal(grad[:, :2], 0)


def test_the_log_prob_of_a_banned_token_is_finite(logits):
    distribution = log_distribution(logits[0], None, SamplingParams(banned=jnp.arange(8) < 2))
    log_probs = token_log_probs(distribution, jnp.zeros(3, jnp.int32))
    assert np.isfinite(log_probs).all() and (np.asarray(log_probs - log_probs) == 0).all()


def test_entropy_by_hand():
    np.testing.assert_allclose(entropy(jnp.log(jnp.full((2, 4), 0.25))), np.log(4), rtol=1e-6)
    banned = log_distribution(jnp.zeros((1, 4)), None, SamplingParams(banned=jnp.arange(4) < 2))
    np.testing.assert_allclose(entropy(banned), np.log(2), rtol=1e-6)


def test_guidance_and_temperature_change_without_a_new_program(logits):
    traces = []

    @jax.jit
    def run(c, u, params):
        traces.append(1)
        return log_distribution(c, u, params)

    for guidance_scale, temperature in ((1.0, 1.0), (5.0, 0.5), (2.0, 0.0)):
        run(*logits, SamplingParams(guidance_scale, temperature))
    assert len(traces) == 1


@pytest.mark.parametrize(("params", "message"), [
    ({"guidance_scale": -1.0, "temperature": 1.0}, "guidance_scale must be .*; got -1.0"),
    ({"guidance_scale": 1.0, "temperature": float("nan")}, "temperature must be .*; got nan"),
    ({"guidance_scale": 1e39, "temperature": 1.0}, "guidance_scale must be .* float32; got 1e.39"),
    ({"guidance_scale": 1.0, "temperature": 1.0, "top_p": 0.0}, "top_p must be .*; got 0.0"),
    ({"guidance_scale": 1.0, "temperature": 1.0, "top_p": 1.5}, "top_p must be .*; got 1.5"),
])  # fmt: skip
def test_bad_params_are_named(params, message):
    with pytest.raises(UserError, match=message):
        check_sampling_params(**params)
    check_sampling_params(guidance_scale=0.0, temperature=0.0, top_p=1.0)


def test_default_params_keep_unlikely_ids_under_jit():
    logits = np.array([0.0, -5.0, -40.0, -80.0], np.float32)
    params = SamplingParams(guidance_scale=jnp.float32(1), temperature=jnp.float32(1))
    got = jax.jit(lambda p: log_distribution(logits, None, p))(params)
    np.testing.assert_allclose(got, jax.nn.log_softmax(logits), rtol=1e-6)
