"""Copies and writes the small files next to the weights: configuration, tokenizer, processor.

The folder is usable as transformers documents it for Janus: ``AutoProcessor``, its chat template
and ``generate`` give what corl_jax gives. Entries of a source folder that corl_jax does not know
are kept. Configuration and processor files of a source in the other layout are not copied.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.tokenizer_export import export_tokenizer
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus import hf_config, original_config
from corl_jax.porting.janus.layouts import LAYOUTS, CheckpointLayout

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
LAYOUT_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files whose content depends on the layout."""
SIDECAR_FILES = TOKENIZER_FILES + LAYOUT_FILES
NESTED_BLOCKS = ("image_processor", "tokenizer", "chat_template")
"""Blocks of ``processor_config.json`` that transformers reads instead of the files written here."""


def copy_sidecar_files(source: pathlib.Path, out: pathlib.Path) -> None:
    """Copies the sidecar files that ``source`` has, unchanged."""
    _copy_existing(SIDECAR_FILES, source, out)


def write_sidecar_files(
    cfg: JanusConfig,
    tokenizer: TextTokenizer,
    source: pathlib.Path,
    out: pathlib.Path,
    layout: CheckpointLayout,
    dtype: str,
) -> None:
    """Writes every file of a model folder except the weights.

    Args:
      cfg: sizes of the model.
      tokenizer: loaded from ``source``.
      source: folder that files and entries are copied from.
      out: an existing folder.
      layout: to write.
      dtype: of the weights.
    """
    content = (source / "tokenizer.json").read_text("utf-8")
    export_tokenizer(tokenizer, content, _read_json(source / "tokenizer_config.json"), out)

    # Entries of a source in the other layout mean nothing in this one.
    source_entries = {name: _read_json(source / name) for name in LAYOUT_FILES}
    source_type = source_entries["config.json"].get("model_type", layout.model_type)
    if source_type != layout.model_type:
        source_entries = {name: {} for name in LAYOUT_FILES}

    if layout is LAYOUTS["original"]:
        new_entries = _original_files(cfg, dtype)
    else:
        new_entries = _transformers_files(cfg, tokenizer, dtype)

    # What corl_jax writes comes before the source, whose other entries are kept.
    for name in LAYOUT_FILES:
        entries = _update_nested(source_entries[name], new_entries.get(name, {}))
        if name == "config.json":
            entries = _with_dtype(entries, dtype)
            # Where somebody once read the source from.
            entries.pop("_name_or_path", None)
        if name == "processor_config.json":
            entries = {key: value for key, value in entries.items() if key not in NESTED_BLOCKS}
        if entries:
            _write_json(out / name, entries)


def _copy_existing(names: tuple[str, ...], source: pathlib.Path, out: pathlib.Path) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _transformers_files(
    cfg: JanusConfig, tokenizer: TextTokenizer, dtype: str
) -> dict[str, dict[str, Any]]:
    token_ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    image_size = cfg.vision.image_size

    # The names are those that transformers reads; config.json is in a module of its own.
    return {
        "config.json": hf_config.write_config(
            cfg,
            dtype,
            image_token_id=tokenizer.image_id,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        ),
        "generation_config.json": {
            **token_ids,
            "generation_kwargs": {"boi_token_id": tokenizer.boi_id},
        },
        "preprocessor_config.json": {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "size": {"height": image_size, "width": image_size},
            **_image_normalization(),
            # Bicubic, in PIL's numbering.
            "resample": 3,
            "do_convert_rgb": True,
        },
        "processor_config.json": {
            "processor_class": "JanusProcessor",
            "num_image_tokens": cfg.image_tokens,
            # The prompts of corl_jax have no system prompt.
            "use_default_system_prompt": False,
        },
    }


def _original_files(cfg: JanusConfig, dtype: str) -> dict[str, dict[str, Any]]:
    return {
        "config.json": original_config.write_config(cfg, dtype),
        "preprocessor_config.json": {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": cfg.vision.image_size,
            # Images that are not square are padded with this gray.
            "background_color": [127, 127, 127],
            "do_normalize": True,
            **_image_normalization(),
        },
        "processor_config.json": {
            "processor_class": "VLChatProcessor",
            "add_special_token": False,
            # Label of the tokens that have no loss, as in the original code.
            "ignore_id": -100,
            "image_tag": JANUS_TEMPLATE.image,
            "mask_prompt": True,
            "num_image_tokens": cfg.image_tokens,
            "sft_format": "deepseek",
        },
    }


def _image_normalization() -> dict[str, Any]:
    """How the vision tower's images are prepared, in both layouts."""
    return {
        "min_size": 14,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        # Bytes to [0, 1], then with mean and std above to [-1, 1].
        "rescale_factor": 1 / 255,
    }


def _update_nested(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` with the entries of ``new``; objects that are in both are merged in the same way."""
    merged = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _update_nested(merged[key], value)
        else:
            merged[key] = value
    return merged


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """``config`` with every entry that names a dtype set to ``dtype``."""
    updated = {}
    for key, value in config.items():
        # The block of the language model names a dtype as well.
        nested = _with_dtype(value, dtype) if isinstance(value, dict) else value
        updated[key] = dtype if key in ("dtype", "torch_dtype") else nested
    return updated


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return dict(JsonObject.read(path).entries) if path.is_file() else {}


def _write_json(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", "utf-8")
