import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.objectives.kl import (
    KlConfig,
    KlState,
    estimators,
    initial_kl_state,
    next_kl_state,
    schedules,
)


def coefficients(cfg, total_steps, kl=0.0):
    """The coefficients of all updates, the first to the one after the last."""
    state = initial_kl_state(cfg, total_steps)
    values = [float(state.coef)]
    for _ in range(total_steps):
        state = next_kl_state(cfg, state, jnp.float32(kl), total_steps)
        values.append(float(state.coef))
    return np.asarray(values)


def test_estimators_by_hand():
    pi, ref = jnp.log(jnp.asarray([0.5, 0.2])), jnp.log(jnp.asarray([0.25, 0.4]))
    np.testing.assert_allclose(estimators["k1"](pi, ref), [np.log(2), -np.log(2)], rtol=1e-5)
    np.testing.assert_allclose(estimators["k2"](pi, ref), [np.log(2) ** 2 / 2] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        estimators["k3"](pi, ref), [0.5 + np.log(2) - 1, 2 - np.log(2) - 1], rtol=1e-5
    )


def test_k3_is_never_negative_and_zero_at_equality(rng):
    pi, ref = (jnp.asarray(3 * rng.normal(size=1000), jnp.float32) for _ in range(2))
    assert (estimators["k3"](pi, ref) >= 0).all()
    for name in estimators:
        np.testing.assert_array_equal(estimators[name](pi, pi), 0)


def test_estimators_agree_with_the_true_divergence(float64, rng):
    logits = rng.normal(size=(2, 6))
    p, q = (jax.nn.log_softmax(jnp.asarray(row)) for row in logits)
    divergence = float(jnp.sum(jnp.exp(p) * (p - q)))
    for name in ("k1", "k3"):
        expectation = jnp.sum(jnp.exp(p) * estimators[name](p, q))
        np.testing.assert_allclose(expectation, divergence, rtol=1e-10)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.02), (0.04, 0.1)])
def test_grpo_d_is_equation_3(low, high):
    """OThink-MR1 Eq. 3 with w / t = 0.3, for geometry reasoning and for visual counting."""
    t, w, middle = 100, 30, (low + high) / 2
    expected = [
        middle - (middle - low) * s / w if s <= w else low + (high - low) * (s - w) / (t - w)
        for s in range(t + 1)
    ]
    got = coefficients(KlConfig(schedule="grpo_d", start=low, end=high), t)
    np.testing.assert_allclose(got, expected, atol=2e-8)
    np.testing.assert_allclose(got[[0, w, t]], [middle, low, high], atol=1e-8)
    np.testing.assert_allclose(got[[15, 65]], [(middle + low) / 2, middle], atol=1e-8)


def test_grpo_d_monotone_waits_then_rises():
    got = coefficients(KlConfig(schedule="grpo_d_monotone", start=0.04, end=0.1), 100)
    np.testing.assert_allclose(got[:31], 0.04, rtol=1e-6)
    assert (np.diff(got[30:]) > 0).all() and np.isclose(got[-1], 0.1)


def test_constant_linear_and_cosine_by_value():
    np.testing.assert_allclose(
        coefficients(KlConfig("constant", 0.04, end=9.0), 4), 0.04, rtol=1e-6
    )
    np.testing.assert_allclose(
        coefficients(KlConfig("linear", 0.1, 0.3), 4), [0.1, 0.15, 0.2, 0.25, 0.3], rtol=1e-6
    )
    np.testing.assert_allclose(
        coefficients(KlConfig("cosine", 0.1, 0.3), 2), [0.1, 0.2, 0.3], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["linear", "cosine", "grpo_d", "grpo_d_monotone"])
def test_schedules_stay_at_the_end_after_the_last_step(name):
    cfg = KlConfig(name, 0.01, 0.3)
    late = next_kl_state(cfg, KlState(jnp.float32(0), jnp.int32(150)), jnp.float32(0), 100)
    np.testing.assert_allclose(late.coef, 0.3, rtol=1e-6)


@pytest.mark.parametrize("name", sorted({*schedules} - {"none"}))
def test_every_schedule_goes_on_from_a_saved_state(name):
    cfg = KlConfig(name, 0.01, 0.1, target_kl=0.02)
    kls = np.linspace(0, 0.05, 20, dtype=np.float32)
    step = jax.jit(lambda state, kl: next_kl_state(cfg, state, kl, 20))

    def run(state, kls):
        for kl in kls:
            state = step(state, kl)
        return state

    uninterrupted = run(initial_kl_state(cfg, 20), kls)
    middle = run(initial_kl_state(cfg, 20), kls[:7])
    saved = KlState(*(jnp.asarray(np.asarray(leaf).copy()) for leaf in jax.tree.leaves(middle)))
    resumed = run(saved, kls[7:])
    assert resumed.coef == uninterrupted.coef and resumed.step == uninterrupted.step == 20
    assert uninterrupted.coef.dtype == jnp.float32 and uninterrupted.coef.shape == ()


def test_adaptive_moves_towards_the_target_by_at_most_its_rate():
    cfg = KlConfig("adaptive", start=0.04, target_kl=0.05, adaptation_rate=0.1)
    state = initial_kl_state(cfg, 10)
    np.testing.assert_allclose(state.coef, 0.04, rtol=1e-6)
    for kl, factor in ((1.0, 1.1), (0.0, 0.9), (0.05, 1.0), (0.06, 1.02)):
        np.testing.assert_allclose(
            next_kl_state(cfg, state, jnp.float32(kl), 10).coef, 0.04 * factor, rtol=1e-5
        )


@pytest.mark.parametrize(("fields", "needed"), [
    ((), False), (("none", 0.0, 0.5), False), (("constant", 0.1), True),
    (("grpo_d", 0.0, 0.02), True), (("linear", 0.1, 0.0), True)])  # fmt: skip
def test_a_reference_is_needed_unless_there_is_no_kl_term(fields, needed):
    cfg = KlConfig(*fields)
    assert cfg.needs_reference is needed
    assert bool(coefficients(cfg, 3).max() > 0) is needed


def test_a_coefficient_that_cannot_leave_zero_is_refused():
    for name in sorted({*schedules} - {"none"}):
        with pytest.raises(UserError, match=f"^start must be above 0.*schedule={name}.*=none$"):
            KlConfig(name, 0.0, 0.0)
    for name in ("constant", "adaptive"):
        with pytest.raises(UserError, match=f"^start must be above 0 with schedule={name}"):
            KlConfig(name, 0.0, 0.5)
    with pytest.raises(UserError, match="^start must be 0 with schedule=none"):
        KlConfig(start=0.1)


def test_k1_is_refused_in_the_loss_where_its_gradient_is_zero_on_average(float64, rng):
    with pytest.raises(UserError, match="gradient of k1 is 0 on average"):
        KlConfig("constant", 0.1, estimator="k1")
    assert KlConfig("constant", 0.1, estimator="k1", placement="reward").is_in_reward

    # Over all tokens, weighted by their probabilities: k1 gives 0, k2 the gradient of the KL.
    logits, ref_logits = (jnp.asarray(row) for row in rng.normal(size=(2, 6)))
    ref = jax.nn.log_softmax(ref_logits)
    probs = jax.nn.softmax(logits)

    def gradient(name):
        return jax.grad(lambda x: jnp.sum(probs * estimators[name](jax.nn.log_softmax(x), ref)))(
            logits
        )

    def divergence(x):
        return jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - ref))

    np.testing.assert_allclose(gradient("k1"), 0, atol=1e-12)
    np.testing.assert_allclose(gradient("k2"), jax.grad(divergence)(logits), rtol=1e-9)


@pytest.mark.parametrize("log_ratio", [-1e4, -100.0, -20.0, 0.0, 20.0, 88.8, 100.0, 1e4])
def test_k3_and_its_gradient_are_finite(log_ratio):
    """``log_ratio`` is that of the reference policy to the policy."""
    value, gradient = jax.value_and_grad(lambda x: estimators["k3"](x, jnp.float32(log_ratio)))(
        jnp.float32(0)
    )
    bounded = min(log_ratio, 20.0)
    assert value == pytest.approx(np.exp(bounded) - bounded - 1, rel=1e-6)
    assert 0 <= value < 1e9 and np.isfinite(gradient)
    # A policy far above the reference is pulled back; far below, beyond the bound, it is left.
    if log_ratio < 0:
        assert gradient == pytest.approx(1 - np.exp(log_ratio), rel=1e-6)
    if log_ratio > 20:
        assert gradient == 0


def test_k3_below_its_bound_has_the_bits_of_the_formula(rng):
    log_ratio = jnp.asarray(rng.uniform(-30, 19.9, 2000), jnp.float32)

    def formula(x):
        return jnp.exp(x) - x - 1

    np.testing.assert_array_equal(estimators["k3"](jnp.zeros(2000), log_ratio), formula(log_ratio))
    gradient, expected = (
        jax.grad(lambda x, f=f: f(x).sum())(log_ratio)
        for f in (lambda x: estimators["k3"](jnp.zeros(2000), x), formula)
    )
    np.testing.assert_array_equal(gradient, expected)
