"""Keys of configs with their values, defaults and meanings, read off the dataclasses that check them.

Names of keys are dotted. A word in capitals stands for several: ``kl.TASK.schedule`` is
``kl.image.schedule`` and ``kl.text.schedule``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from corl_jax.core.checks.config_block import field_annotations
from corl_jax.core.checks.field_docs import field_docs
from corl_jax.objectives.kl import KlConfig
from corl_jax.pipelines.config import MergeStage, PipelineConfig
from corl_jax.porting.policy_merge import MergeSettings
from corl_jax.stages import whole_config
from corl_jax.stages.config_keys import BLOCK_CLASSES
from corl_jax.stages.mixture_config import PartConfig
from docs_site.field_values import allowed_values, default_of, registered


@dataclasses.dataclass(frozen=True)
class ConfigKey:
    """What is known of a key.

    Attributes:
      meaning: from the docstring of its class, on one line; "" where it says nothing.
      values: what it may be, in words.
      default: of its class; ``dataclasses.MISSING`` where it has none.
      choices: names that a registry has for it, each with the first line of its docstring.
    """

    meaning: str
    values: str
    default: Any
    choices: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ConfigBlock:
    """Keys of a config that stand together.

    Attributes:
      prefix: dotted name of the block; "" is the config itself.
      cls: the dataclass that checks them.
      hidden: fields that are no keys.
    """

    prefix: str
    cls: type
    hidden: frozenset[str] = frozenset()

    @functools.cached_property
    def keys(self) -> dict[str, ConfigKey]:
        """Dotted name to what is known of the key."""
        dot, annotations = "." if self.prefix else "", field_annotations(self.cls)
        docs = field_docs(self.cls)
        return {
            f"{self.prefix}{dot}{field.name}": ConfigKey(
                docs[field.name].meaning,
                allowed_values(annotations[field.name]),
                default_of(field),
                registered(annotations[field.name]),
            )
            for field in dataclasses.fields(self.cls)
            if field.name not in self.hidden
        }


HIDDEN = {whole_config.OptimConfig: frozenset(whole_config.DERIVED)}
"""Fields of classes that are no keys."""
STAGE_BLOCKS = (
    *(
        ConfigBlock(prefix, cls, HIDDEN.get(cls, frozenset()))
        for prefix, cls in BLOCK_CLASSES
        if cls is not KlConfig
    ),
    ConfigBlock("kl.TASK", KlConfig),
    ConfigBlock("data.mixture.NAME", PartConfig),
)
"""Blocks of the configs of stages, those of every stage first."""

PIPELINE_BLOCKS = (
    ConfigBlock("", PipelineConfig, frozenset({"train", "evals"})),
    ConfigBlock("merge.NAME", MergeStage, frozenset({"settings"})),
    ConfigBlock("merge.NAME", MergeSettings),
)
"""Blocks of a pipeline; ``train.NAME`` is the whole config of a stage."""

ALL_BLOCKS = (*STAGE_BLOCKS, *PIPELINE_BLOCKS)
"""Blocks of every config."""


def documented_keys(blocks: Iterable[ConfigBlock]) -> dict[str, ConfigKey]:
    """Dotted name to what is known of the key, for all keys of some blocks."""
    return {name: key for block in blocks for name, key in block.keys.items()}


def find_key(name: str, documented: Mapping[str, ConfigKey]) -> tuple[str, ConfigKey] | None:
    """The documented key that a key of a config is, or is part of; None if there is none.

    Args:
      name: dotted, such as ``kl.image.schedule`` or ``rewards.options.models.clip``.
      documented: from ``documented_keys``.
    """
    words = name.split(".")
    # The longest name counts: ``data.mixture.a.source`` is no part of ``data.mixture`` alone.
    for length in range(len(words), 0, -1):
        for key, known in documented.items():
            parts = key.split(".")
            pairs = zip(parts, words, strict=False)
            if len(parts) == length and all(a == b or a.isupper() for a, b in pairs):
                return key, known
    return None
