import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.reconstruction import (
    codebook_terms,
    pixel_terms,
    psnr,
    straight_through,
    usage_terms,
)


def test_pixel_terms_and_psnr_by_hand():
    real = jnp.zeros((2, 2, 2, 3))
    squared, absolute = pixel_terms(real.at[1].set(0.5).at[1, 0].set(-0.5), real)
    np.testing.assert_allclose(squared, [0, 0.25])
    np.testing.assert_allclose(absolute, [0, 0.5])
    np.testing.assert_allclose(psnr(jnp.asarray([4.0, 0.04])), [0, 20], atol=1e-5)
    assert np.isfinite(psnr(squared)).all()


def test_codebook_terms_move_one_side_each(rng):
    z, e = (
        jnp.asarray(rng.normal(size=(4, 8)), jnp.float32),
        jnp.asarray(rng.normal(size=(4, 8)), jnp.float32),
    )
    codebook, commitment = codebook_terms(z, e)
    np.testing.assert_allclose(codebook, np.square(z - e).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(codebook, commitment)
    to_z, to_e = jax.grad(lambda z, e: codebook_terms(z, e)[0].sum(), (0, 1))(z, e)
    assert not to_z.any()
    np.testing.assert_allclose(to_e, 2 * (e - z), rtol=1e-5)
    to_z, to_e = jax.grad(lambda z, e: codebook_terms(z, e)[1].sum(), (0, 1))(z, e)
    assert not to_e.any()
    np.testing.assert_allclose(to_z, 2 * (z - e), rtol=1e-5)


def test_straight_through_has_the_value_of_codes_and_the_gradient_of_latents(rng):
    z, e = jnp.asarray(rng.normal(size=(4, 8))), jnp.asarray(rng.normal(size=(4, 8)))
    value, pull = jax.vjp(straight_through, z, e)
    np.testing.assert_allclose(value, e, atol=1e-6)
    to_z, to_e = pull(jnp.full((4, 8), 3.0, value.dtype))
    np.testing.assert_array_equal(to_z, 3)
    np.testing.assert_array_equal(to_e, 0)


def test_usage_terms_at_their_extremes():
    sharp_and_spread = 100 * jnp.eye(4)
    single, mean = usage_terms(sharp_and_spread, 1.0)
    np.testing.assert_allclose([single, mean], [0, np.log(4)], atol=1e-5)
    single, mean = usage_terms(jnp.tile(100 * jnp.eye(4)[:1], (6, 1)), 1.0)  # one code for all
    np.testing.assert_allclose([single, mean], [0, 0], atol=1e-5)
    single, mean = usage_terms(jnp.zeros((2, 3, 4)), 0.5)
    np.testing.assert_allclose([single, mean], [np.log(4)] * 2, atol=1e-5)


def test_usage_temperature_divides():
    cosines = jnp.asarray([[1.0, 0.5, -0.5]])
    single, _ = usage_terms(cosines, 0.1)
    p = np.exp(np.asarray([10, 5, -5.0]))
    p /= p.sum()
    np.testing.assert_allclose(single, -(p * np.log(p)).sum(), rtol=1e-4)
