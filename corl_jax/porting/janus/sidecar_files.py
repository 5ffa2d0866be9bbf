"""The small files beside the weights: configuration, tokenizer, processor. In: a folder that has them; out: a copy that
fits the layout written.

What the source says beyond what this program knows is carried over; files of the other layout's processor are not.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from corl_jax.data.text_tokenizer import (
    BEGIN_OF_IMAGE,
    CHAT_TEMPLATE,
    END_OF_IMAGE,
    IMAGE,
    TextTokenizer,
)
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus import hf_config, original_config
from corl_jax.porting.janus.layouts import FORMATS, Format

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
COMPANIONS = TOKENIZER_FILES + LAYOUT_FILES


def copy_companions(source: pathlib.Path, out: pathlib.Path) -> None:
    """Copies those that are there."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_companions(
    cfg: JanusConfig,
    tokenizer: TextTokenizer,
    source: pathlib.Path,
    out: pathlib.Path,
    layout: Format,
    dtype: str,
) -> None:
    """Every file of ``out`` but the weights.

    Args:
      cfg: sizes.
      tokenizer: loaded from ``source``.
      source: where the files come from.
      out: an existing folder.
      layout: to write.
      dtype: of the weights.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    theirs = {name: _read(source / name) for name in LAYOUT_FILES}
    if theirs["config.json"].get("model_type", layout.model_type) != layout.model_type:
        theirs = {name: {} for name in LAYOUT_FILES}
    ours = (
        _original(cfg, dtype)
        if layout is FORMATS["original"]
        else _transformers(cfg, tokenizer, dtype)
    )
    for name in LAYOUT_FILES:
        value = _merged(theirs[name], ours.get(name, {}))
        if value:
            _write(out / name, _with_dtype(value, dtype) if name == "config.json" else value)
    if layout is FORMATS["transformers"]:
        # The processor of transformers asks the tokenizer for these three by name.
        tokens = {"image_token": IMAGE, "boi_token": BEGIN_OF_IMAGE, "eoi_token": END_OF_IMAGE}
        config = _read(source / "tokenizer_config.json")
        has_template = "chat_template" in config or any(
            (out / name).is_file() for name in TOKENIZER_FILES[-2:]
        )
        template = {} if has_template else {"chat_template": CHAT_TEMPLATE}
        _write(
            out / "tokenizer_config.json",
            config | template | {"extra_special_tokens": tokens} | tokens,
        )


def _transformers(
    cfg: JanusConfig, tokenizer: TextTokenizer, dtype: str
) -> dict[str, dict[str, Any]]:
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    side = cfg.vision.image_size
    return {
        "config.json": hf_config.write_config(
            cfg,
            dtype,
            image_token_id=tokenizer.image_id,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        ),
        "generation_config.json": ids | {"generation_kwargs": {"boi_token_id": tokenizer.boi_id}},
        "preprocessor_config.json": {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "size": {"height": side, "width": side},
            **_pixels(),
            "resample": 3,
        },
        "processor_config.json": {
            "processor_class": "JanusProcessor",
            "num_image_tokens": cfg.image_tokens,
        },
    }


def _original(cfg: JanusConfig, dtype: str) -> dict[str, dict[str, Any]]:
    return {
        "config.json": original_config.write_config(cfg, dtype),
        "preprocessor_config.json": {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": cfg.vision.image_size,
            "background_color": [127, 127, 127],
            "do_normalize": True,
            **_pixels(),
        },
        "processor_config.json": {
            "processor_class": "VLChatProcessor",
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": IMAGE,
            "mask_prompt": True,
            "num_image_tokens": cfg.image_tokens,
            "sft_format": "deepseek",
        },
    }


def _pixels() -> dict[str, Any]:
    """How pictures are prepared for understanding, in both layouts."""
    return {
        "min_size": 14,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
    }


def _merged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """``ours`` over ``theirs``, object by object."""
    out = dict(theirs)
    for key, value in ours.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """``config`` with every mention of a dtype set to the one written."""
    out = {}
    for key, value in config.items():
        nested = _with_dtype(value, dtype) if isinstance(value, dict) else value
        out[key] = dtype if key in ("dtype", "torch_dtype") else nested
    return out


def _read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _write(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
