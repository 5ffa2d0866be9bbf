"""Parameters to a folder that transformers loads. In: ``Params``, config, tokenizer files; out: a folder."""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from safetensors.numpy import save_file

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.data.text import TextTokenizer
from corl_jax.models.config import JanusConfig
from corl_jax.porting.janus_pro import write_config
from corl_jax.porting.load import plan_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def save_folder(
    params: Params, cfg: JanusConfig, tokenizer_folder: str | pathlib.Path, out: str | pathlib.Path
) -> None:
    """Writes ``config.json``, ``model.safetensors``, processor and tokenizer files to ``out``, whole or not at all.

    The folder is written aside and renamed at the end.

    Raises:
      UserError: ``out`` exists and is not empty.
    """
    out = pathlib.Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{str(out)!r} exists and is not empty; choose another folder or delete it first")
    tokenizer = TextTokenizer.load(tokenizer_folder)
    config = write_config(
        cfg,
        image_token_id=tokenizer.image_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        boi_id=tokenizer.boi_id,
    )
    boi = config.pop("generation_kwargs")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write_json(aside / "config.json", config)
        _write_json(aside / "generation_config.json", generation | {"generation_kwargs": boi})
        _write_json(aside / "preprocessor_config.json", preprocessor(cfg))
        save_file(foreign_tensors(params, cfg), aside / "model.safetensors", metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if (pathlib.Path(tokenizer_folder) / name).is_file():
                shutil.copyfile(pathlib.Path(tokenizer_folder) / name, aside / name)
        aside.chmod(0o755)
        for file in aside.iterdir():
            file.chmod(0o644)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside)
        raise


def foreign_tensors(params: Params, cfg: JanusConfig) -> dict[str, np.ndarray]:
    """All tensors under their foreign names, float32."""
    tensors = {}
    for path, (rule, names, _) in plan_of(cfg).items():
        array = np.asarray(jax.device_get(params[path]), np.float32)
        for name, part in zip(names, array if rule.stacked else [array], strict=True):
            tensors[name] = np.ascontiguousarray(rule.layout.outward(part))
    return tensors


def preprocessor(cfg: JanusConfig) -> dict:
    """``preprocessor_config.json``: how pictures are prepared for understanding."""
    return {
        "image_processor_type": "JanusImageProcessor",
        "size": {"height": cfg.vision.image_size, "width": cfg.vision.image_size},
        "min_size": 14,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "resample": 3,
    }


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
