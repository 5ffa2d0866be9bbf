"""The reward of long answers: DAPO's soft punishment."""

import numpy as np
import pytest

from corl_jax.configs.unified import get_config
from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.stages.rl.read_config import read_rl_config

CONTEXT = RewardContext(options=RewardOptions(overlong_buffer=128))


def test_overlong_by_hand():
    record = example("train", 0)
    completions = [
        Completion(record, "a", length=length, max_length=512)
        for length in (1, 300, 384, 448, 511, 512)
    ]
    rewards = compute_rewards(completions, {"overlong": 1.0}, CONTEXT)
    np.testing.assert_allclose(rewards.total, [0, 0, 0, -0.5, -127 / 128, -1], rtol=1e-6)


def test_an_answer_of_unknown_length_is_refused():
    with pytest.raises(UserError, match="reward 'overlong' failed on row 0 .* needs the length"):
        compute_rewards([Completion(example("train", 0), "a")], {"overlong": 1.0}, CONTEXT)


def test_what_cannot_be_meant_is_refused():
    config = get_config("tiny").to_dict()
    longest = config["rl"]["rollout"]["completion_length"]
    config["rewards"]["text"]["overlong"] = 0.5
    config["rewards"]["options"]["overlong_buffer"] = longest
    assert read_rl_config(config, 1).rewards["text"]["overlong"] == 0.5
    config["rewards"]["options"]["overlong_buffer"] = longest + 1
    with pytest.raises(UserError, match=f"overlong_buffer must be at most .*={longest}; got"):
        read_rl_config(config, 1)
    config["rewards"]["image"]["overlong"] = 1.0
    with pytest.raises(UserError, match="config.rewards.image must not have 'overlong', since"):
        read_rl_config(config, 1)
