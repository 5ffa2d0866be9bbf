"""All that is wrong in a config by itself is found before anything is made of it."""

from __future__ import annotations

import copy

import pytest

from corl_jax.core.errors import UserError
from corl_jax.stages.start_checks import STAGES
from corl_jax.stages.whole_config import STAGE_KEYS, check_config


@pytest.mark.parametrize("name", ["tokenizer", "sft", "unified"])
def test_shipped_configs_are_right_and_every_key_is_needed(small_config, name):
    config = small_config(name)
    assert check_config(config).stage == config["stage"]

    read_elsewhere = {"sharding_rules", "evals"}
    for key in sorted(config.keys() - read_elsewhere):
        without = {other: value for other, value in config.items() if other != key}
        with pytest.raises(UserError, match=f"^the config must have the key {key}; it is missing"):
            check_config(without)


def test_every_stage_has_its_keys():
    assert STAGE_KEYS.keys() == STAGES.keys()


@pytest.mark.parametrize("value", [None, 3, "text", [], ["a"], float("nan")])
def test_a_value_in_place_of_a_block(small_config, value):
    config = small_config("unified")
    for path in ("hooks", "optim", "rl", "rl.rollout", "kl", "kl.text", "rewards.text", "evals"):
        changed = copy.deepcopy(config)
        *blocks, name = path.split(".")
        block = changed
        for part in blocks:
            block = block[part]
        block[name] = value
        with pytest.raises(UserError, match=rf"^config\.{path} must be a block") as error:
            check_config(changed)
        assert "\n" not in str(error.value)


def test_rewards_may_have_negative_weights(small_config):
    config = small_config("unified")
    config["rewards"]["text"] = {"accuracy": 1.0, "format": -0.5}
    check_config(config)
