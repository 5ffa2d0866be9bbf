"""Config keys that had other names in older versions: for errors, and to resume older runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corl_jax.core.types import COLUMN_FIELDS

RENAMED_KEYS = {
    "rl.pictures": "rl.rollout.image_prompts",
    "rl.questions": "rl.rollout.text_prompts",
    "rl.alternate": "rl.rollout.alternate_every",
    "rl.group": "rl.rollout.group_size",
    "rl.guidance": "rl.rollout.guidance_scale",
    "rl.temperature": "rl.rollout.temperature",
    "rl.image_prompt_length": "rl.rollout.image_prompt_length",
    "rl.text_prompt_length": "rl.rollout.text_prompt_length",
    "rl.completion_length": "rl.rollout.completion_length",
    "rl.rollout_weights": "rl.rollout.weights_dtype",
    "rl.rollout_cache": "rl.rollout.cache_dtype",
    "rl.stale_rollouts": "rl.rollout.one_step_off_policy",
    "rl.pairing": "rl.advantage.pairing",
    "rl.text_weight": "rl.advantage.pairing_text_weight",
    "rl.baseline": "rl.advantage.baseline",
    "rl.scale": "rl.advantage.normalization",
    "rl.refill": "rl.advantage.resample_rounds",
    "rl.aggregation": "rl.loss.aggregation",
    "rl.clip": "rl.loss.clip",
    "rl.epsilon_low": "rl.loss.clip_low",
    "rl.epsilon_high": "rl.loss.clip_high",
    "rl.clip_ceiling": "rl.loss.clip_ceiling",
    "rl.image_weight": "rl.loss.task_weight.image",
    "rl.answer_weight": "rl.loss.task_weight.text",
    "rl.entropy_bonus.image": "rl.loss.entropy_bonus.image",
    "rl.entropy_bonus.text": "rl.loss.entropy_bonus.text",
    "rl.importance_cap": "rl.loss.importance_cap",
    "rl.logprob_guidance": "rl.log_probs.guidance",
    "rl.image_logprob_alignment": "rl.log_probs.image_alignment",
    "rl.shared_prefix": "rl.log_probs.shared_prefix",
    "rl.score_chunk": "rl.log_probs.chunk_length",
    "rl.reference_every": "rl.reference.update_every",
    "rl.reference_mix": "rl.reference.mix",
    "reward.normalise": "rewards.options.normalization",
    "reward.captioner": "rewards.options.captioner",
    "reward.similarity": "rewards.options.similarity",
    "reward.closeness": "rewards.options.image_distance",
    "reward.strict_whitespace": "rewards.options.strict_whitespace",
    "reward.open_ended": "rewards.options.open_ended",
    "reward.own": "rewards.options.custom",
    "reward.models.captioner": "rewards.options.models.captioner",
    "reward.models.bert": "rewards.options.models.bert",
    "reward.models.sentence": "rewards.options.models.sentence",
    "reward.models.clip": "rewards.options.models.clip",
    "reward.models.lpips": "rewards.options.models.lpips",
    "kl.image.explore": "kl.image.explore_fraction",
    "kl.image.target": "kl.image.target_kl",
    "kl.image.rate": "kl.image.adaptation_rate",
    "kl.text.explore": "kl.text.explore_fraction",
    "kl.text.target": "kl.text.target_kl",
    "kl.text.rate": "kl.text.adaptation_rate",
    "sft.reading_rows": "sft.understanding_rows",
    "sft.sloppy_share": "sft.malformed_share",
    "sft.dropout": "sft.cfg_dropout",
    "sft.drawing_length": "sft.generation_prompt_length",
    "sft.reading_length": "sft.understanding_prompt_length",
    "sft.drawing_weight": "sft.image_weight",
    "tokenizer.squared": "tokenizer.l2_weight",
    "tokenizer.absolute": "tokenizer.l1_weight",
    "tokenizer.codebook": "tokenizer.codebook_weight",
    "tokenizer.commitment": "tokenizer.commitment_weight",
    "tokenizer.usage": "tokenizer.usage_weight",
    "rules.update": "sharding_rules.update",
    "rules.rollout": "sharding_rules.rollout",
    "data.name": "data.source",
    "data.dir": "data.source",
    "data.questions": "data.question_kinds",
    "data.unusable": "data.on_bad",
    "resume.accept_data": "data.changed",
    "evals.n": "evals.num_records",
    "evals.guidances": "evals.guidance_scales",
    "evals.batch": "evals.batch_size",
    "hooks.keep": "hooks.keep_checkpoints",
    "hooks.tensorboard_every": "trackers.every",
    "show": "progress_metrics",
    "alarm.watch": "alarms.watch",
    "alarm.patience": "alarms.patience",
    "alarm.dominates": "alarms.dominant_share",
    "alarm.probes": "alarms.diverging_probes",
}
"""Former key to today's, dotted."""

RENAMED_VALUES = {
    ("rl.log_probs.image_alignment", "reference_off_by_one"): "off_by_one_ulm_r1",
    ("data.on_bad", "replace"): "drop",
    ("data.changed", "False"): "refuse",
    ("data.changed", "True"): "accept",
}
"""Today's key and former value to today's value."""


ADDED_KEYS: dict[str, Any] = {
    "data.changed": "refuse",
    "data.held_out": 0.0,
    "data.template": "as_is",
    "data.stages": [],
    "data.mixture": {},
    "rl.loss.entropy_target": {"image": 0.0, "text": 0.0},
    "rl.loss.entropy_rate": 5e-5,
    "rl.loss.entropy_limit": 5e-3,
    "rl.loss.image_credit": "uniform",
    "rl.external.image": "none",
    "rl.external.exponent": 0.5,
    "rl.curriculum.success": {"image": "", "text": ""},
    "rl.curriculum.success_at": 1.0,
    "rl.curriculum.difficulty": ["none"],
    "rl.curriculum.history": "none",
    "rl.plan.length": 0,
    "rl.plan.prompt_length": 256,
    "rl.plan.template": "auto",
    "rl.plan.weighting": "joint",
    "rl.plan.share": 0.5,
    "rl.check.prompts": 0,
    "rl.check.reward": "",
    "rl.check.weight": 1.0,
    "rl.check.prompt_length": 1024,
    "rl.check.template": "auto",
    "rl.rollout.minibatches": 1,
    "rl.advantage.pass_k": 4,
    "rl.advantage.multi_objective_aggregation": "sum_then_normalize",
    "rl.loss.cispo_cap": 5.0,
    "rl.loss.gspo_clip_low": {"image": 3e-4, "text": 3e-4},
    "rl.loss.gspo_clip_high": {"image": 4e-4, "text": 4e-4},
    "rl.loss.sapo_tau_positive": 1.0,
    "rl.loss.sapo_tau_negative": 1.05,
    "rl.loss.mask_truncated_completions": False,
    "rewards.options.overlong_buffer": 128,
    "rl.rollout.question_pictures": True,
    "rewards.options.models.hps": "",
    "rewards.options.likelihood_judge": "reference",
    "rewards.options.likelihood_baseline": "none",
    "hooks.completions_every": 0,
    "hooks.completions_groups": 2,
    "hooks.keep_completions": 8,
    "hooks.trace_steps": 0,
    "hooks.trace_after": 2,
    "evals.scoring": "world",
    "trackers.names": ["tensorboard"],
    "trackers.project": "corl_jax",
    "trackers.run_name": "",
    "sft.generation_rows": -1,
    "sft.document_rows": 0,
    "sft.document_length": 128,
    "sft.document_weight": 1.0,
}
"""Keys that older versions did not have, and the values that do what they did."""


def renamed_key_hint(key: str) -> str:
    """What to add to an error about the unknown ``key``: its name today, or nothing."""
    exact = RENAMED_KEYS.get(key)
    if exact is not None:
        return f"; config.{key} is called config.{exact} today"

    # The whole block may have moved.
    moved = [(old, new) for old, new in RENAMED_KEYS.items() if old.startswith(f"{key}.")]
    if moved:
        old, new = moved[0]
        return f"; its keys moved, for example config.{old} is called config.{new} today"
    return ""


def rename_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config written by an older version, under today's keys; today's configs stay as they are.

    Args:
      config: nested JSON values. Of a pipeline, the configs under ``train`` are renamed.
    """
    train = config.get("train")
    if config.get("stage") == "pipeline" and isinstance(train, Mapping):
        stages = {
            name: rename_keys(stage) if isinstance(stage, Mapping) else stage
            for name, stage in train.items()
        }
        rest = {key: value for key, value in config.items() if key != "train"}
        return _rename(rest) | {"train": stages}
    return _rename(config)


def _rename(config: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = json.loads(json.dumps(config))
    _update_data(renamed.get("data"))
    for old, new in RENAMED_KEYS.items():
        # A damaged file may have another value where a block belongs; its keys stay as they are.
        if not _is_free(renamed, new.split(".")):
            continue
        value = _pop(renamed, old.split("."))
        if value is not _ABSENT:
            _put(renamed, new.split("."), RENAMED_VALUES.get((new, str(value)), value))

    for key, value in ADDED_KEYS.items():
        names = key.split(".")
        # A block that the config of a stage does not have is not for that stage.
        if "stage" in renamed and names[0] in renamed and _is_free(renamed, names):
            _put_missing(renamed, names, json.loads(json.dumps(value)))

    kl = renamed.get("kl")
    for block in kl.values() if isinstance(kl, dict) else ():
        if isinstance(block, dict):
            _update_kl(block)
    return renamed


def _update_data(block: object) -> None:
    """Puts name and folder of the data into one address; there was no choice of columns."""
    if not isinstance(block, dict) or "name" not in block:
        return
    name, folder = block.pop("name"), block.pop("dir", "")
    block["source"] = folder if name == "records" else name
    block["cache_dir"] = "" if name == "records" else folder
    block["columns"] = dict.fromkeys(COLUMN_FIELDS, "")


def _update_kl(block: dict[str, Any]) -> None:
    """Names the place of a KL term, which was the loss, and the schedule that stays 0, ``none``."""
    block.setdefault("placement", "loss")
    names = ["start"] if block.get("schedule") in ("constant", "adaptive") else ["start", "end"]
    if not any(block.get(name) for name in names):
        block["schedule"] = "none"


def _is_free(tree: dict[str, Any], keys: list[str]) -> bool:
    """Whether everything on the way to ``keys`` is a block, or absent."""
    block: object = tree
    for name in keys[:-1]:
        if not isinstance(block, dict):
            return False
        if name not in block:
            return True
        block = block[name]
    return isinstance(block, dict)


_ABSENT = object()


def _pop(tree: dict[str, Any], keys: list[str]) -> Any:
    """Removes and returns the value at ``keys``; blocks that become empty are removed too."""
    name, rest = keys[0], keys[1:]
    if name not in tree:
        return _ABSENT
    if not rest:
        return tree.pop(name)
    if not isinstance(tree[name], dict):
        return _ABSENT
    value = _pop(tree[name], rest)
    if value is not _ABSENT and not tree[name]:
        del tree[name]
    return value


def _put_missing(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets the value at ``keys`` unless there is one."""
    for name in keys[:-1]:
        tree = tree.setdefault(name, {})
    tree.setdefault(keys[-1], value)


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets the value at ``keys``, with blocks where there are none."""
    for name in keys[:-1]:
        tree = tree.setdefault(name, {})
    tree[keys[-1]] = value
