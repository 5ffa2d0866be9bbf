"""Measured success: its shares, what they weigh, what they say about records, and what is refused."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Rewards
from corl_jax.stages.rl.curriculum import solved_shares, success_shares, weigh_by_difficulty
from corl_jax.stages.rl.read_config import read_rl_config


@pytest.fixture
def read(small_config):
    """A function from changes of ``rl.curriculum`` and of other keys to what the stage reads."""

    def make(stages=(), pairing="separate", off_policy=False, **curriculum):
        config = small_config("unified", **{"rl.advantage.pairing": pairing})
        config["rl"]["rollout"] |= {"group_size": 4, "image_prompts": 2, "text_prompts": 2}
        config["rl"]["rollout"]["one_step_off_policy"] = off_policy
        config["rl"]["loss"]["importance_cap"] = 2.0 * off_policy
        config["data"]["stages"] = list(stages)
        config["rl"]["curriculum"] |= curriculum
        return read_rl_config(json.loads(json.dumps(config)), 1)

    return make


def rewards_of(*groups):
    """Rewards of groups whose ``accuracy`` is given; the total is something else."""
    accuracy = np.array(groups, np.float32).reshape(-1)
    matrix = np.stack([np.ones_like(accuracy), accuracy], 1)
    return Rewards(("format", "accuracy"), matrix, matrix.sum(1))


TEXT = {"image": "", "text": "accuracy"}
REWARDS = {"text": rewards_of([1, 1, 0.5, 0], [1, 1, 1, 1]), "image": rewards_of([0] * 4, [1] * 4)}


def test_success_is_a_reward_that_reaches_a_bound(read):
    assert success_shares(read(), REWARDS) == {}
    shares = success_shares(read(success=TEXT, success_at=1.0), REWARDS)
    assert list(shares) == ["text"] and shares["text"].tolist() == [0.5, 1]
    shares = success_shares(read(success=TEXT, success_at=0.5), REWARDS)
    assert shares["text"].tolist() == [0.75, 1]
    # A task that has no turn in a step has no outcome.
    assert success_shares(read(success=TEXT), {"image": REWARDS["image"]}) == {}


def test_weights_change_by_stage_and_leave_the_other_task_alone(read):
    cfg = read(success=TEXT, stages=(5, 9), difficulty=["none", "medium", "hard"])
    ones = {task: jnp.ones((2, 4)) for task in ("image", "text")}
    for step, weights in ((0, [1, 1]), (4, [1, 1]), (5, [1, 0]), (8, [1, 0]), (9, [1, 0])):
        advantages, metrics = weigh_by_difficulty(cfg, ones, REWARDS, step)
        np.testing.assert_allclose(advantages["text"][:, 0], weights, atol=1e-6)
        np.testing.assert_array_equal(advantages["image"], 1)
        assert (metrics == {}) == (step < 5)
    assert metrics == {"text/success": 0.75, "text/difficulty_weight": 0.5}


@pytest.mark.parametrize("pairing", ["unified", "sum_of_advantages"])
def test_paired_tasks_share_the_weights_of_the_one_that_is_measured(read, pairing):
    cfg = read(success=TEXT, difficulty=["medium"], pairing=pairing)
    shared = jnp.arange(8.0).reshape(2, 4)
    advantages, _ = weigh_by_difficulty(cfg, {"image": shared, "text": shared}, REWARDS, 0)
    for task in ("image", "text"):
        np.testing.assert_allclose(advantages[task], [[0, 1, 2, 3], [0] * 4], atol=1e-6)


def test_a_record_is_solved_where_all_its_tasks_are():
    shares = {"image": np.array([1.0, 1.0]), "text": np.array([1.0, 0.5, 1.0])}
    rows, lowest = solved_shares(shares, 4)
    assert rows.tolist() == [0, 1, 2] and lowest.tolist() == [1, 0.5, 1]
    rows, lowest = solved_shares({}, 4)
    assert rows.tolist() == lowest.tolist() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success": {"image": "", "text": "clip"}}, "success.text must be one of the rewards in "),
        ({"history": "unsolved"}, "success must name the reward that measures success"),
        ({"difficulty": ["hard"]}, "success must name the reward that measures success"),
        (
            {"difficulty": ["hard", "easy"], "success": TEXT},
            "difficulty must have 1 name, or 1, one per stage of config.data.stages; got 2",
        ),
        (
            {
                "success": {"image": "shapes_strict", "text": "accuracy"},
                "difficulty": ["hard"],
                "pairing": "unified",
            },
            "success must name the reward of one task where .*pairing='unified'",
        ),
        (
            {"success": TEXT, "history": "unsolved", "off_policy": True},
            "history needs the outcomes of a step .*one_step_off_policy=True. Set it to False",
        ),
    ],
)
def test_what_is_refused(read, changes, message):
    with pytest.raises(UserError, match="config.rl.curriculum." + message) as error:
        read(**changes)
    assert "\n" not in str(error.value)
