import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.reconstruction import (
    code_entropies,
    codebook_losses,
    pixel_errors,
    psnr,
    straight_through,
)


def test_pixel_errors_and_psnr_by_hand():
    targets = jnp.zeros((2, 2, 2, 3))
    images = targets.at[1].set(0.5).at[1, 0].set(-0.5)
    squared, absolute = pixel_errors(images, targets)
    np.testing.assert_allclose(squared, [0, 0.25])
    np.testing.assert_allclose(absolute, [0, 0.5])
    np.testing.assert_allclose(psnr(jnp.asarray([4.0, 0.04])), [0, 20], atol=1e-5)
    assert np.isfinite(psnr(squared)).all()


def test_codebook_loss_moves_codes_and_commitment_loss_moves_latents(rng):
    z = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    e = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    codebook, commitment = codebook_losses(z, e)
    np.testing.assert_allclose(codebook, np.square(z - e).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(codebook, commitment)

    grad_z, grad_e = jax.grad(lambda z, e: codebook_losses(z, e)[0].sum(), (0, 1))(z, e)
    assert not grad_z.any()
    np.testing.assert_allclose(grad_e, 2 * (e - z), rtol=1e-5)
    grad_z, grad_e = jax.grad(lambda z, e: codebook_losses(z, e)[1].sum(), (0, 1))(z, e)
    assert not grad_e.any()
    np.testing.assert_allclose(grad_z, 2 * (z - e), rtol=1e-5)


def test_straight_through_has_the_value_of_codes_and_the_gradient_of_latents(rng):
    z, e = jnp.asarray(rng.normal(size=(4, 8))), jnp.asarray(rng.normal(size=(4, 8)))
    value, vjp = jax.vjp(straight_through, z, e)
    np.testing.assert_allclose(value, e, atol=1e-6)
    grad_z, grad_e = vjp(jnp.full((4, 8), 3.0, value.dtype))
    np.testing.assert_array_equal(grad_z, 3)
    np.testing.assert_array_equal(grad_e, 0)


def test_code_entropies_at_their_extremes():
    one_code_each = 100 * jnp.eye(4)
    single, mean = code_entropies(one_code_each, 1.0)
    np.testing.assert_allclose([single, mean], [0, np.log(4)], atol=1e-5)
    one_code_for_all = jnp.tile(100 * jnp.eye(4)[:1], (6, 1))
    single, mean = code_entropies(one_code_for_all, 1.0)
    np.testing.assert_allclose([single, mean], [0, 0], atol=1e-5)
    single, mean = code_entropies(jnp.zeros((2, 3, 4)), 0.5)
    np.testing.assert_allclose([single, mean], [np.log(4)] * 2, atol=1e-5)


def test_code_entropies_divide_by_the_temperature():
    cosines = jnp.asarray([[1.0, 0.5, -0.5]])
    single, _ = code_entropies(cosines, 0.1)
    p = np.exp(np.asarray([10, 5, -5.0]))
    p /= p.sum()
    np.testing.assert_allclose(single, -(p * np.log(p)).sum(), rtol=1e-4)
