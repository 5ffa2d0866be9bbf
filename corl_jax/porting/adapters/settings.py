"""``adapter_config.json`` of PEFT: what is written, what is understood, and what is refused.

Nothing in the file is passed over. An entry that changes what an adapter computes must have the
value under which it is the plain product of LoRA (Hu et al. 2021), or reading ends.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

from corl_jax.core.checks.json_object import JsonObject

SETTINGS_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_RANK = 2**16
ADVICE = "save the adapters as plain LoRA, or merge them into their base with peft first"

READ = (
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "bias",
    "target_modules", "exclude_modules", "layers_to_transform", "init_lora_weights",
    "revision",
)  # fmt: skip
"""Entries that ``read_settings`` looks at itself."""
WITHOUT_EFFECT = (
    "auto_mapping", "peft_version", "task_type", "inference_mode", "lora_dropout",
    "layers_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
"""Entries that change nothing of what adapters compute, or nothing unless another entry is set."""
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is; others replace its weights."""


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """What adapters are.

    Attributes:
      base: ``base_model_name_or_path``, the policy that they belong to.
      rank: of all adapters.
      scale: weight of their product.
      targets: names or ends of names of adapted modules; a pattern of the whole name as one text.
      excluded: names or ends of names that are not adapted.
      layers: numbers of the adapted layers; None for all.
    """

    base: str
    rank: int
    scale: float
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None


def is_adapter_folder(folder: pathlib.Path) -> bool:
    """Whether a folder has the settings of PEFT's adapters."""
    return (folder / SETTINGS_FILE).is_file()


def read_settings(folder: pathlib.Path) -> AdapterSettings:
    """Reads ``adapter_config.json``.

    Raises:
      UserError: a value that is missing or of another type, or adapters of another kind than LoRA.
    """
    path = folder / SETTINGS_FILE
    file = JsonObject.read(path, f"{SETTINGS_FILE} of {str(folder)!r}", ADVICE)
    file.require("peft_type", "LORA")
    file.require("bias", "none", "none")

    # Variants of LoRA have an entry each, which is null, false or empty where they are not used.
    for name, value in file.entries.items():
        if name not in READ + WITHOUT_EFFECT and value not in (None, False, "", [], {}):
            file.refuse(name, "empty, as corl_jax reads no adapters that use it")
    if file.entries.get("init_lora_weights", True) not in PLAIN_STARTS:
        file.refuse("init_lora_weights", " or ".join(map(repr, PLAIN_STARTS)))

    if file.optional_text("revision") not in (None, "main"):
        file.refuse("revision", "null or main, as bases are read at their newest commit")

    rank, alpha = file.integer("r", low=1, high=MAX_RANK), file.number("lora_alpha")
    rank_stabilized = file.boolean("use_rslora", False)
    return AdapterSettings(
        base=_read_base(file),
        rank=rank,
        scale=alpha / (math.sqrt(rank) if rank_stabilized else rank),
        targets=_read_targets(file),
        excluded=file.texts("exclude_modules") if file.has("exclude_modules") else (),
        layers=_read_layers(file),
    )


def _read_base(file: JsonObject) -> str:
    if not file.has("base_model_name_or_path"):
        file.refuse("base_model_name_or_path", "the policy that the adapters belong to")
    return file.text("base_model_name_or_path")


def _read_targets(file: JsonObject) -> tuple[str, ...] | str:
    targets = file.entries.get("target_modules")
    return targets if isinstance(targets, str) else file.texts("target_modules")


def _read_layers(file: JsonObject) -> tuple[int, ...] | None:
    layers = file.entries.get("layers_to_transform")
    if layers is None or layers == []:
        return None
    if type(layers) is int:
        return (layers,)
    return file.integers("layers_to_transform", low=0, high=10**4, length=10**4)


def settings_json(base: str, rank: int, alpha: float, targets: str) -> dict[str, Any]:
    """The content of ``adapter_config.json``, for ``peft.PeftModel.from_pretrained``.

    Args:
      base: where others find the base: an id on the Hugging Face hub, or ``tiny``.
      rank: of the adapters.
      alpha: divided by the rank, it is the weight of their product.
      targets: see ``names.target_pattern``.
    """
    return {
        "peft_type": "LORA",
        # Which class of transformers AutoPeftModel has to build below the adapters.
        "auto_mapping": {
            "base_model_class": "JanusForConditionalGeneration",
            "parent_library": "transformers.models.janus.modeling_janus",
        },
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": targets,
    }
