import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry


@pytest.fixture
def table():
    table = Registry("reward")
    table.register("zeta")(len)
    table.register("alpha")(max)
    return table


def test_finds_contains_and_lists(table):
    assert (
        table["zeta"] is len
        and "alpha" in table
        and "beta" not in table
        and list(table) == ["zeta", "alpha"]
    )


def test_the_decorated_thing_comes_back_unchanged(table):
    assert table.register("third")(sum) is sum


def test_a_miss_names_the_value_and_what_there_is(table):
    with pytest.raises(UserError, match="unknown reward 'alhpa'; expected one of alpha, zeta"):
        table["alhpa"]


def test_a_name_is_taken_once(table):
    with pytest.raises(ValueError, match="reward 'zeta' is registered twice"):
        table.register("zeta")(min)
    assert table["zeta"] is len
