"""The reference has every key of every config, and every command with its flags, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import re

import pytest

from corl_jax.commands.cli import make_parser
from corl_jax.configs.unified import get_config
from docs_site import config_pages
from docs_site.command_pages import commands_page, subcommands
from docs_site.config_keys import ALL_BLOCKS, documented_keys, find_key
from docs_site.config_pages import keys_page, undocumented
from docs_site.config_values import flat
from docs_site.set_values_page import config_modules, config_name, configs_page

MODULES = {config_name(module): module for module in config_modules()}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("size", ["tiny", "janus_pro_1b"])
def test_every_key_of_a_config_has_a_line_with_a_meaning(name, size):
    missing = undocumented(MODULES[name].get_config(size))
    assert not missing, f"describe these in the dataclasses that check them: {missing}"


def test_every_documented_key_has_a_meaning():
    """Also those that no config sets, such as the keys of a mixture's parts."""
    empty = [name for name, key in documented_keys(ALL_BLOCKS).items() if not key.meaning]
    assert not empty


def test_keys_without_a_line_or_a_meaning_are_found(monkeypatch):
    config = get_config()
    config.new_key = 1
    config.rl.rollout.new_key = 1
    assert undocumented(config) == ["new_key", "rl.rollout.new_key"]

    known = documented_keys(ALL_BLOCKS)
    known["steps"] = dataclasses.replace(known["steps"], meaning="")
    monkeypatch.setattr(config_pages, "documented_keys", lambda blocks: known)
    assert "steps" in undocumented(config)


def test_the_page_of_keys_has_every_key_with_its_default():
    page, values = keys_page(), flat(get_config())
    known = documented_keys(ALL_BLOCKS)
    for key in values:
        assert f"`{find_key(key, known)[0]}`{{ #" in page, key
    entry = page[page.index("`rl.loss.clip_low`") :].partition("\n\n`")[0]
    assert "ratio is clipped" in entry and "A number from 0 to 1; default `0.2`." in entry
    # Names of a registry are explained by the functions behind them.
    assert "* `grpo_d`: OThink-MR1 Eq. 3" in page
    anchors = re.findall(r"\{ #([\w-]+) \}", page)
    assert len(anchors) == len(set(anchors))


def test_the_page_of_configs_has_what_differs_and_nothing_else():
    page = configs_page()
    unified = page[page.index("## configs/unified.py") :].partition("\n## ")[0]
    assert "| `rl.rollout.guidance_scale` | `5.0` | `2.0` | `5.0` |" in unified
    assert "`rl.rollout.temperature`" not in unified
    refined = page[page.index("## configs/refined_t2i.py") :].partition("\n## ")[0]
    assert "| `kl.image.schedule` | `grpo_d` | `constant` | `constant` |" in refined
    assert "`rl.loss.task_weight.image`" not in refined
    assert all(f"## configs/{name}.py" in page for name in MODULES)


def test_the_page_of_commands_has_every_flag_with_its_help():
    page = commands_page()
    for name, parser in subcommands(make_parser()):
        section = page[page.index(f"## corl {name}\n") :].partition("\n## ")[0]
        below = [command for _, command in subcommands(parser)]
        for command in (parser, *below):
            for action in command._actions:
                if action.help in (argparse.SUPPRESS,) or action.dest in ("help", "run"):
                    continue
                if isinstance(action, argparse._SubParsersAction):
                    continue
                assert action.help, f"corl {name} {action.dest} has no help"
                shown = action.option_strings[-1] if action.option_strings else action.dest
                assert shown.lower() in section.lower(), f"corl {name} {shown}"


def test_the_page_of_commands_has_the_flags_of_training():
    assert "--workdir" in commands_page() and "--distributed" in commands_page()
