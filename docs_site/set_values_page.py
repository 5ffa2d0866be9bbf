"""The page of what each config sets: its values where they differ from what it starts from."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import corl_jax.configs
from corl_jax.configs import unified
from corl_jax.porting.policy_merge import MergeSettings
from corl_jax.stages.rl.config_blocks import TASKS
from docs_site.config_keys import ALL_BLOCKS, documented_keys
from docs_site.config_values import base_values, flat, show_value


def config_modules() -> list[Any]:
    """The configs that come with the package, the one to start reading at first."""
    names = sorted(module.name for module in pkgutil.iter_modules(corl_jax.configs.__path__))
    modules = [importlib.import_module(f"corl_jax.configs.{name}") for name in names]
    configs = [module for module in modules if "get_config" in vars(module)]
    return sorted(configs, key=lambda module: config_name(module) != "unified")


def config_name(module: Any) -> str:
    """``unified`` of ``corl_jax.configs.unified``."""
    return module.__name__.rpartition(".")[2]


def configs_page() -> str:
    """What each config sets, at the sizes that it has values for."""
    lines = [
        "# What the configs set",
        "",
        "`:janus_pro_1b` is for example `--config=configs/unified.py:janus_pro_1b`. Only what differs",
        "from the [defaults](config_keys.md) is listed; of a recipe, what differs from `unified`.",
        "",
    ]
    for module in config_modules():
        lines += [f"## configs/{config_name(module)}.py", "", *config_lines(module), ""]
    return "\n".join(lines)


def config_lines(module: Any) -> Iterator[str]:
    """The head of a config's file, and a table of its values."""
    yield inspect.cleandoc(module.__doc__ or "")
    yield ""
    values = {size: flat(module.get_config(size)) for size in ("tiny", "janus_pro_1b")}
    starts = {size: start_values(module, size) for size in values}
    yield f"| key | {start_name(module)} | {' | '.join(f'`:{size}`' for size in values)} |"
    yield "|---" * (len(values) + 2) + "|"
    for key in dict.fromkeys(key for cells in values.values() for key in cells):
        if any(values[size].get(key) != starts[size].get(key) for size in values):
            cells = [starts["tiny"].get(key), *(values[size].get(key) for size in values)]
            yield f"| `{key}` | {' | '.join(map(show_cell, cells))} |"


def start_name(module: Any) -> str:
    """What a config is compared with."""
    return "`unified`" if is_recipe(module) else "default"


def is_recipe(module: Any) -> bool:
    """Whether a config is a change of ``configs/unified.py``."""
    return module is not unified and module.get_config("tiny").stage == "rl"


def start_values(module: Any, size: str) -> dict[str, Any]:
    """The values that a config is compared with, by dotted name."""
    if is_recipe(module):
        return flat(unified.get_config(size))
    defaults: dict[str, Any] = {}
    for key, doc in documented_keys(ALL_BLOCKS).items():
        for task in TASKS if "TASK" in key else ("",):
            defaults |= spread(key.replace("TASK", task), doc.default)

    # A stage of a pipeline is compared with the config that it is made of.
    config = module.get_config(size)
    for name in config.train if config.stage == "pipeline" else ():
        stage = importlib.import_module(f"corl_jax.configs.{name}").get_config(size)
        defaults |= {f"train.{name}.{key}": value for key, value in flat(stage).items()}
    for name in config.merge if config.stage == "pipeline" else ():
        defaults |= {f"merge.{name}.{key}": value for key, value in vars(MergeSettings()).items()}
    return defaults | base_values()


def spread(key: str, value: Any) -> dict[str, Any]:
    """A default by dotted name: of each part, where it is a block; nothing where there is none."""
    if value is dataclasses.MISSING:
        return {}
    if isinstance(value, Mapping) and value:
        return {f"{key}.{name}": part for name, part in value.items()}
    return {key: value}


def show_cell(value: Any) -> str:
    """A value in a table; nothing where there is none."""
    return "" if value is None else show_value(value).replace("|", "\\|")
