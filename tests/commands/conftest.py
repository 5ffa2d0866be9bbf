"""What the tests of commands share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def embedded_world():
    """The data set of the embedded world, built before a test reads what a command prints.

    A command that is the first to need it on a machine shows its progress on standard error.
    """
    from corl_jax.data.shapes import builder

    builder.source()
