"""A reward of the user: every block and command of docs/rewards.md works as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.main import parse_command_line
from corl_jax.rewards.base import RewardContext, compute_rewards, rewards
from corl_jax.rewards.custom import register_custom
from corl_jax.stages.rl.read_config import read_rl_config

DOCS = Path(__file__).parents[2] / "docs" / "rewards.md"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the files of the docs; the working directory is another one.

    What a test registers and imports is forgotten after it.
    """
    section = DOCS.read_text("utf-8").partition("## Your own rewards")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n# (\w+\.py)(.*?)```", section, re.DOTALL)
    assert [name for name, _ in blocks] == ["my_rewards.py", "mine.py"]
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in blocks:
        (folder / name).write_text(f"# {text}")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(rewards, "_entries", dict(rewards._entries))
    yield folder
    for name in ("my_rewards", "corl_jax_config_file_mine"):
        sys.modules.pop(name, None)


def command_of_docs():
    """The flags of the command in the section about rewards of the user."""
    line = re.search(r"<!-- in the folder of my_rewards.py -->\n```sh\n(.*)\n```", DOCS.read_text())
    words = shlex.split(line[1])
    assert words[:3] == ["python", "-m", "corl_jax.main"]
    return ["main", *words[3:]]


def check_brightness(config):
    """The config has the reward, and it is computed."""
    weights = read_rl_config(config, 1).rewards["image"]
    assert weights == {"shapes_strict": 0.5, "shapes_soft": 0.5, "brightness": 0.5}
    white = Completion(None, pixels=np.full((4, 4, 3), 255, np.uint8))
    values = compute_rewards([white], {"brightness": 0.5}, RewardContext())
    assert values.total.tolist() == [0.5]


def test_the_flags_of_the_docs_in_the_working_directory(project, monkeypatch):
    monkeypatch.chdir(project)
    check_brightness(parse_command_line(command_of_docs())[0])


def test_the_config_of_the_docs_from_another_directory(project):
    check_brightness(parse_command_line(["main", f"--config={project / 'mine.py'}"])[0])


def test_flags_and_file_make_the_same_config(project):
    """So a run that was started in one way can be resumed in the other."""
    flags = ["--config.rewards.image.brightness=0.5", *command_of_docs()[1:]]
    by_flags = parse_command_line(["main", *flags])[0]
    assert parse_command_line(["main", f"--config={project / 'mine.py'}"])[0] == by_flags


def test_a_module_that_is_in_neither_place(project):
    with pytest.raises(UserError, match="beside the config, in the working directory or installed"):
        read_rl_config(parse_command_line(command_of_docs())[0], 1)


def test_an_unknown_reward_lists_those_of_the_user_too(project):
    flags = [f"--config={project / 'mine.py'}", "--config.rewards.image.darkness=1"]
    with pytest.raises(UserError, match="unknown reward 'darkness'; expected one of .*brightness"):
        read_rl_config(parse_command_line(["main", *flags])[0], 1)


def test_a_name_without_a_function(project):
    parse_command_line(["main", f"--config={project / 'mine.py'}"])
    with pytest.raises(UserError, match="'my_rewards' has no function 'darkness'"):
        register_custom(["my_rewards:darkness"])
