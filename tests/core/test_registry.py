import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("reward")
    registry.register("zeta")(len)
    registry.register("alpha")(max)
    return registry


def test_lookup_membership_and_order(registry):
    assert registry["zeta"] is len
    assert "alpha" in registry and "beta" not in registry
    assert list(registry) == ["zeta", "alpha"]


def test_the_decorated_object_comes_back_unchanged(registry):
    assert registry.register("third")(sum) is sum


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(registry):
    with pytest.raises(UserError, match="unknown reward 'alhpa'; expected one of alpha, zeta"):
        registry["alhpa"]


def test_a_name_is_registered_only_once(registry):
    with pytest.raises(ValueError, match="reward 'zeta' is registered twice"):
        registry.register("zeta")(min)
    assert registry["zeta"] is len
