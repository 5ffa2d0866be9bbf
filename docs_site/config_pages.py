"""The page of all config keys: what each may be, its default and its meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from docs_site.config_keys import ALL_BLOCKS, PIPELINE_BLOCKS, ConfigKey, documented_keys, find_key
from docs_site.config_values import base_values, flat, show_value

TITLES = {
    "": "The run",
    "model": "Model and devices",
    "data": "Data",
    "data.mixture.NAME": "Mixtures of data sets",
    "optim": "Optimizer",
    "hooks": "During the run",
    "evals": "Evaluation",
    "rl.rollout": "Reinforcement learning",
    "rewards": "Rewards",
    "kl.TASK": "KL divergence",
    "sft": "Supervised learning and the image tokenizer",
    "order": "Pipelines",
}
"""First block of a part of the page to the title of the part."""

INTRODUCTION = """\
Every key of a config is a flag: `--config.optim.learning_rate=1e-4`. A value that a key cannot have
is one line that says what it may be. `TASK` is `image` or `text`; `NAME` is a name of yours. The
default is that of a config that does not set the key; [what the configs set](configs.md) has the
others. This page is made from the classes that check the values.
"""


def keys_page() -> str:
    """Every key of every config."""
    # Whoever searches for a key wants this page first.
    head = ["---", "search:", "  boost: 3", "---", ""]
    lines = [*head, "# Config keys", "", INTRODUCTION]
    defaults = base_values()
    for block in ALL_BLOCKS:
        is_pipeline = block is PIPELINE_BLOCKS[0]
        title = TITLES.get("order" if is_pipeline else block.prefix)
        if title and f"## {title}" not in lines:
            lines += [f"## {title}", ""]
        for key, doc in block.keys.items():
            lines += [*key_lines(key, doc, defaults), ""]
    return "\n".join(lines)


def key_lines(key: str, doc: ConfigKey, defaults: Mapping[str, Any]) -> Iterator[str]:
    """A key as an entry of a list of definitions."""
    anchor = key.lower().replace(".", "-").replace("_", "-")
    yield f"`{key}`{{ #{anchor} }}"
    yield f":   {sentence(doc.meaning)}"
    yield ""
    values = f"    {doc.values[0].upper()}{doc.values[1:]}"
    default = defaults.get(key, doc.default)
    if default is dataclasses.MISSING:
        yield f"{values}."
    else:
        yield f"{values}; default {show_value(default)}."
    if doc.choices:
        yield ""
        for name, meaning in doc.choices.items():
            yield f"    * `{name}`: {meaning}"


def sentence(text: str) -> str:
    """``text`` with a capital letter, unless it begins with a name."""
    return text[:1].upper() + text[1:] if text[:1].isalpha() else text


def undocumented(config: ml_collections.ConfigDict) -> list[str]:
    """Keys of a config that have no line on the page, or one without a meaning."""
    documented = documented_keys(ALL_BLOCKS)
    # A stage of a pipeline has the keys of a config of its own.
    names = {key: key.split(".", 2)[2] if key.startswith("train.") else key for key in flat(config)}
    found = {key: find_key(name, documented) for key, name in names.items()}
    return [key for key, entry in found.items() if entry is None or not entry[1].meaning]
