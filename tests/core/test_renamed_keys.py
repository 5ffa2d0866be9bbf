"""Keys that moved: an error says their name today, and configs of older runs are read as today's."""

from __future__ import annotations

import importlib
import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.renamed_keys import RENAMED_KEYS, rename_keys, renamed_key_hint
from corl_jax.stages.rl.read_config import read_rl_config


def config_of(name, arg=None):
    return json.loads(
        importlib.import_module(f"configs.{name}").get_config(arg).to_json_best_effort()
    )


def flatten(config, prefix=""):
    """Dotted keys of nested blocks; a block that is empty counts as a value."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat):
    config = {}
    for key, value in flat.items():
        *blocks, name = key.split(".")
        block = config
        for part in blocks:
            block = block.setdefault(part, {})
        block[name] = value
    return config


def as_older(config):
    """A config as an older version would have written it."""
    older_names = {new: old for old, new in RENAMED_KEYS.items()}
    flat = {}
    for key, value in flatten(config).items():
        for new, old in older_names.items():
            if key == new or key.startswith(f"{new}."):
                key = old + key.removeprefix(new)
                break
        flat[key] = value
    return unflatten(flat)


def test_a_key_stays_where_its_block_today_is_something_else():
    """A damaged config is compared as it is, instead of ending in a traceback."""
    config = {"rl": {"group": 4, "rollout": 3}, "rewards": None, "reward": {"own": ["a:b"]}}
    assert rename_keys(config) == config
    assert rename_keys({"stage": "pipeline"}) == {"stage": "pipeline"}
    assert rename_keys({"stage": "pipeline", "train": {"a": 3}})["train"] == {"a": 3}


@pytest.mark.parametrize("name", ["unified", "refined_mc", "sft", "tokenizer", "counting"])
def test_an_older_config_is_read_as_todays(name):
    config = config_of(name)
    older = as_older(config)
    assert older != config
    assert rename_keys(older) == config
    assert rename_keys(config) == config


def test_an_older_pipeline_is_read_as_todays():
    config = config_of("corl")
    older = as_older({key: value for key, value in config.items() if key != "train"})
    older["train"] = {name: as_older(stage) for name, stage in config["train"].items()}
    assert rename_keys(older) == config


def test_a_value_that_was_renamed():
    older = {"rl": {"image_logprob_alignment": "reference_off_by_one", "group": 4}}
    assert rename_keys(older) == {
        "rl": {"log_probs": {"image_alignment": "off_by_one_ulm_r1"}, "rollout": {"group_size": 4}}
    }


def test_every_new_name_is_a_key_of_a_config():
    keys = set()
    for name in ("unified", "sft", "tokenizer"):
        keys |= set(flatten(config_of(name)))
    missing = [
        new
        for new in RENAMED_KEYS.values()
        if new not in keys and not any(key.startswith(f"{new}.") for key in keys)
    ]
    assert missing == []


def test_an_error_says_what_a_key_is_called_today(small_config):
    assert "config.rl.group is called config.rl.rollout.group_size today" in renamed_key_hint(
        "rl.group"
    )
    assert "config.reward.normalise is called" in renamed_key_hint("reward")
    assert renamed_key_hint("rl.colour") == ""

    config = small_config("unified")
    config["rl"]["group"] = 4
    with pytest.raises(UserError, match="got group too; config.rl.group is called config.rl.ro"):
        read_rl_config(config, 1)


def test_a_kl_term_of_an_older_run():
    """It was in the loss, and switched off by coefficients of 0."""

    def renamed(**block):
        return rename_keys({"kl": {"text": block}})["kl"]["text"]

    trained = {"schedule": "grpo_d", "start": 0.0, "end": 0.03}
    assert renamed(**trained) == trained | {"placement": "loss"}
    assert renamed(**trained, placement="reward") == trained | {"placement": "reward"}
    for block in (
        {"schedule": "constant", "start": 0.0, "end": 0.03},
        {"schedule": "adaptive", "start": 0.0, "end": 0.0},
        {"schedule": "linear", "start": 0.0, "end": 0.0},
    ):
        assert renamed(**block) == block | {"schedule": "none", "placement": "loss"}
