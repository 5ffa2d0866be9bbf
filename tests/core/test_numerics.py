import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.numerics import Weighted


def test_empty_masks_give_zero_not_nan():
    assert Weighted.of(jnp.ones(4), jnp.zeros(4, bool)).value == 0


def test_weighted_parts_of_different_size_add_up_to_the_exact_mean(rng):
    values, mask = rng.normal(size=20), rng.random(20) < 0.5
    parts = [Weighted.of(values[a:b], mask[a:b]) for a, b in ((0, 3), (3, 4), (4, 20))]
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_allclose(total.value, values[mask].mean(), rtol=1e-5)
    np.testing.assert_allclose(Weighted.of(values).value, values.mean(), rtol=1e-5)

    # The mean of the parts' means is wrong, which is why sums are kept.
    mean_of_means = np.mean([float(part.value) for part in parts])
    assert abs(mean_of_means - values[mask].mean()) > 1e-3


def test_masked_values_never_reach_the_sum():
    total = Weighted.of(jnp.asarray([1.0, 100.0]), jnp.asarray([True, False]))
    assert (total.sum, total.weight) == (1, 1)


def test_weighted_crosses_jit():
    metrics = jax.jit(lambda x: {"loss": Weighted.of(x), "kl": Weighted.of(2 * x)})(jnp.arange(3.0))
    total = metrics["kl"] + metrics["kl"]
    assert (metrics["loss"].value, total.value, total.weight) == (1, 2, 6)
