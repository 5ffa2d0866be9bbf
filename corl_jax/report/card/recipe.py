"""The values of a config that say how a policy was trained, and on what; paths are reduced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from corl_jax.core.private_text import reduce_values
from corl_jax.data.sources.addresses import HUB, SHAPES
from corl_jax.data.sources.presets import PRESETS
from corl_jax.porting.policy_source import TINY
from corl_jax.report.card.facts import Pairs

RECIPE = (
    "steps", "seed", "trainable", "lora.rank", "lora.alpha", "lora.target", "updates_per_step",
    "microbatches", "rewards.image", "rewards.text", "rl.rollout.image_prompts",
    "rl.rollout.text_prompts", "rl.rollout.group_size", "rl.rollout.guidance_scale",
    "rl.rollout.temperature", "rl.rollout.completion_length", "rl.advantage.baseline",
    "rl.advantage.normalization", "rl.loss.aggregation", "rl.loss.clip", "rl.loss.clip_low",
    "rl.loss.clip_high", "kl.image.estimator", "kl.image.schedule", "kl.image.start", "kl.image.end",
    "kl.text.start", "kl.text.end", "batch_size", "optim.learning_rate", "optim.schedule",
    "optim.warmup_ratio", "optim.weight_decay", "optim.clip_norm", "model.compute_dtype",
    "model.param_dtype", "mesh.data", "mesh.fsdp", "mesh.tensor",
)  # fmt: skip
"""Keys of a config in the order of the table; those that a config does not have are left out."""
LORA_KEYS = "lora."
Config = Mapping[str, Any]


def recipe_of(config: Config) -> Pairs:
    """The values that matter, under their keys."""
    has_adapters = bool(dict(_values(config, ("lora.rank",))).get("lora.rank"))
    pairs = [
        (key, _text(value))
        for key, value in _values(config, RECIPE)
        # Without adapters their other keys mean nothing, and with them ``trainable`` does not.
        if (has_adapters or not key.startswith(LORA_KEYS))
        and not (has_adapters and key == "trainable")
    ]
    return tuple((key, text) for key, text in pairs if text)


def guidance_of(config: Config) -> float | None:
    """The guidance scale of a run's rollouts; None for a run without any."""
    values = dict(_values(config, ("rl.rollout.guidance_scale",)))
    return float(values.popitem()[1]) if values else None


def config_text(config: Config) -> str:
    """All of a config as JSON."""
    return json.dumps(reduce_values(dict(config)), indent=2, sort_keys=True, ensure_ascii=False)


def data_of(config: Config, records: int | None) -> Pairs:
    """Where the records come from, how many there are, and which were held out.

    Args:
      config: of the run.
      records: of the sources, before any selection; None where it is not known.
    """
    data = config["data"]
    pairs = [(name, source) for name, source in _sources(data)]
    if records is not None:
        pairs.append(("records of the sources", f"{records:,}"))
    if data.get("limit"):
        pairs.append(("used for training at most", f"{data['limit']:,}"))
    for key in ("question_kinds", "qa_type", "template"):
        if data.get(key) not in (None, "", [], "as_is"):
            pairs.append((key, _text(data[key])))
    share = data.get("held_out")
    held_out = f"{100 * share:g} % of the records" if share else "the test split of the source"
    return (*pairs, ("held out from training", held_out))


def datasets_of(config: Config) -> tuple[str, ...]:
    """Ids on the Hugging Face hub of the data sets, as far as the addresses name some."""
    ids = []
    for _, address in _addresses(config["data"]):
        name = address.removeprefix(HUB) if address.startswith(HUB) else ""
        if address in PRESETS:
            name = PRESETS[address].hub
        # OWNER/NAME[/CONFIG][@REVISION]
        if match := re.match(r"[\w.-]+/[\w.-]+", name):
            ids.append(match[0])
    return tuple(dict.fromkeys(ids))


def start_of(config: Config, inputs: Mapping[str, Any] | None) -> tuple[str, str]:
    """What a run started from: ``tiny``, its id on the Hugging Face hub or "", and a phrase.

    Args:
      config: of the run.
      inputs: of the manifest. A policy of the hub is told by its commit, since a folder of this
        machine may be called like one.
    """
    name = config["init_from"]
    if not name:
        return "", "random parameters"
    if name == TINY:
        return TINY, "the base policy that comes with corl_jax (tiny)"
    identities = inputs["init_from"] if inputs else []
    is_single = "," not in name and "=" not in name
    if is_single and len(identities) == 1 and "revision" in identities[0]:
        return name, f"{name} of the Hugging Face hub, commit {identities[0]['revision'][:12]}"
    return "", f"policies on the disk of its authors: {reduce_values(name)}"


def _values(config: Config, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key in keys:
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield key, value


def _text(value: Any) -> str:
    value = reduce_values(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sources(data: Config) -> Iterator[tuple[str, str]]:
    """Name and address of every set of records, in words that name no folder."""
    for name, address in _addresses(data):
        world = "the embedded world of shapes, drawn by a program"
        yield name, world if address == SHAPES else reduce_values(address)


def _addresses(data: Config) -> Iterator[tuple[str, str]]:
    mixture = data.get("mixture") or {}
    if not mixture:
        yield "source", str(data["source"])
    for name, part in mixture.items():
        yield f"part {name}", str(part["source"])
