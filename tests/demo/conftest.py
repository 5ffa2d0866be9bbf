"""The policies of a page: the smallest one, under the name ``tiny``."""

import pytest


@pytest.fixture(scope="session")
def dot_policy(dot_policy_folder):
    from corl_jax import Policy

    return Policy.load(dot_policy_folder, dtype="float32")


@pytest.fixture
def policies(dot_policy):
    from corl_jax.demo.policies import Policies

    return Policies("tiny", loaded={"tiny": dot_policy})
