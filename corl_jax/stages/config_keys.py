"""Every key of a config with its value and its meaning, which is that of a field of a dataclass."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from corl_jax.core.checks.field_docs import FieldDoc, field_docs
from corl_jax.engine.optim import OptimConfig
from corl_jax.objectives.kl import KlConfig
from corl_jax.rewards.config import RewardOptions
from corl_jax.stages.config import EvalsConfig, RunConfig, StageKeys, as_tuple
from corl_jax.stages.rl.config import BLOCKS as RL_BLOCKS
from corl_jax.stages.rl.config import RewardTables
from corl_jax.stages.rl.config_blocks import TASKS
from corl_jax.stages.sft import SftConfig
from corl_jax.stages.tokenizer import TokenizerConfig
from corl_jax.stages.whole_config import BLOCKS, WarmupConfig

BLOCK_CLASSES: tuple[tuple[str, type], ...] = (
    ("", RunConfig),
    ("", StageKeys),
    *BLOCKS.items(),
    ("optim", OptimConfig),
    ("optim", WarmupConfig),
    ("evals", EvalsConfig),
    ("tokenizer", TokenizerConfig),
    ("sft", SftConfig),
    *((f"rl.{name}", cls) for name, cls in RL_BLOCKS.items()),
    ("rewards", RewardTables),
    ("rewards.options", RewardOptions),
    *((f"kl.{task}", KlConfig) for task in TASKS),
)
"""Dotted keys of blocks and their classes; "" is the config itself."""
PIPELINE_KEYS: Mapping[str, str] = {
    "order": "stages of the pipeline, first to last",
    "merge": "stages that merge policies",
}
"""Keys of a pipeline, which is above the stages, and their meanings."""
WIDTH = 100


@dataclasses.dataclass(frozen=True)
class ConfigKey:
    """One key of a config.

    Attributes:
      key: dotted, without ``config.``.
      value: that the config has.
      doc: its meaning and the values it may have.
    """

    key: str
    value: Any
    doc: FieldDoc


def config_keys(config: Mapping[str, Any]) -> Iterator[ConfigKey]:
    """All keys of a config in its order, those of blocks below their blocks.

    Args:
      config: plain values, as a stage or a pipeline reads them.
    """
    docs = _known_docs()
    for key, value in _leaves(config, ""):
        # A pipeline has the configs of its stages under their names.
        name = key.split(".", 2)[2] if key.startswith("train.") else key
        # What an entry of a block means, such as the weight of a reward, is said of the block.
        blocks = [name.rsplit(".", above)[0] for above in range(1, name.count(".") + 1)]
        of_block = next((docs[block].meaning for block in blocks if block in docs), "")
        doc = docs[name] if name in docs else FieldDoc(of_block, "")
        yield ConfigKey(key, as_tuple(value), doc)


def _known_docs() -> dict[str, FieldDoc]:
    """Dotted key to what is known of it."""
    docs = {key: FieldDoc(text, "") for key, text in PIPELINE_KEYS.items()}
    for block, cls in BLOCK_CLASSES:
        for name, doc in field_docs(cls).items():
            docs[f"{block}.{name}" if block else name] = doc
    return docs


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; an empty block is a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def describe_keys(config: Mapping[str, Any]) -> str:
    """A text for the terminal: each key as the flag that sets it, and what it means."""
    lines = []
    for entry in config_keys(config):
        lines.append(f"--config.{entry.key}={_flag_value(entry.value)}")
        parts = [entry.doc.meaning.rstrip(".").replace("``", ""), entry.doc.values]
        text = "; ".join(filter(None, parts))
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent="    ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _flag_value(value: Any) -> str:
    """A value as a shell would take it."""
    return f'"{value}"' if isinstance(value, tuple | Mapping) else str(value)
