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
    np.testing.assert_allclose(coefficients(KlConfig(start=0.04, end=9.0), 4), 0.04, rtol=1e-6)
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


@pytest.mark.parametrize("name", list(schedules))
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
    (("constant", 0.0, 0.5), False), (("constant", 0.1), True), (("grpo_d", 0.0, 0.02), True),
    (("linear", 0.0, 0.0), False), (("adaptive", 0.0, 1.0), False)])  # fmt: skip
def test_a_reference_is_needed_if_the_coefficient_can_differ_from_zero(fields, needed):
    assert KlConfig(*fields).needs_reference is needed


def test_bad_configs_are_named():
    with pytest.raises(
        UserError, match="unknown KL schedule 'grpod'; expected one of adaptive, constant, cosine"
    ):
        KlConfig(schedule="grpod")
    with pytest.raises(UserError, match="unknown KL estimator 'k4'; expected one of k1, k2, k3"):
        KlConfig(estimator="k4")
    with pytest.raises(UserError, match=r"must be at least 0; got -0\.1 and 0\.0"):
        KlConfig(start=-0.1)
    with pytest.raises(UserError, match="kl.explore_fraction=1.0"):
        KlConfig(explore_fraction=1.0)
    for fields in ({"target_kl": 0.0}, {"adaptation_rate": 1.0}):
        with pytest.raises(UserError, match="kl.target_kl=.*kl.adaptation_rate="):
            KlConfig("adaptive", 0.1, **fields)
