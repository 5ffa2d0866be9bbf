"""The two published layouts of Janus-Pro: names of tensors, and readers of ``config.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus import hf_config, original_config
from corl_jax.porting.janus.tensor_names import ORIGINAL, ORIGINAL_UNUSED, TRANSFORMERS
from corl_jax.porting.rules import TensorRule

RawConfig = dict[str, Any]
"""The content of a ``config.json``."""


@dataclasses.dataclass(frozen=True)
class CheckpointLayout:
    """One layout.

    Attributes:
      name: as in ``corl export --layout``.
      model_type: the entry ``model_type`` of its ``config.json``.
      rules: the table from tensors to parameters.
      unused: patterns of tensor names that no model reads.
      prefix: of most tensor names, absent in files of older writers; "" if there is none.
      read_config: ``(config.json, folder for errors) -> sizes``.
      image_token_id: ``(config.json, tokenizer's pad id, tokenizer's image id) -> id of the image
        placeholder that the weights were trained with``.
    """

    name: str
    model_type: str
    rules: tuple[TensorRule, ...]
    unused: tuple[str, ...]
    prefix: str
    read_config: Callable[[RawConfig, str], JanusConfig]
    image_token_id: Callable[[Mapping[str, Any], int, int], int]


LAYOUTS = {
    layout.name: layout
    for layout in (
        CheckpointLayout(
            name="transformers",
            model_type="janus",
            rules=TRANSFORMERS,
            unused=(),
            prefix="model.",
            read_config=hf_config.read_config,
            image_token_id=hf_config.image_token_id,
        ),
        CheckpointLayout(
            name="original",
            model_type="multi_modality",
            rules=ORIGINAL,
            unused=ORIGINAL_UNUSED,
            prefix="",
            read_config=original_config.read_config,
            image_token_id=original_config.image_token_id,
        ),
    )
}


def detect_layout(raw: object, folder: str) -> CheckpointLayout:
    """The layout that a ``config.json`` belongs to.

    Args:
      raw: content of the file.
      folder: of the file, for errors.

    Raises:
      UserError: not a JSON object, or another kind of model.
    """
    if not isinstance(raw, dict):
        raise UserError(
            f"config.json in {folder!r} must be a JSON object; got a {type(raw).__name__}; "
            "get the file again"
        )

    # Each layout has a model type of its own.
    for layout in LAYOUTS.values():
        if raw.get("model_type") == layout.model_type:
            return layout

    expected = [f"{layout.model_type!r} ({layout.name} layout)" for layout in LAYOUTS.values()]
    raise UserError(
        f"the model in {folder!r} must be of type {' or '.join(expected)}; "
        f"got {raw.get('model_type')!r}; choose a Janus folder"
    )


def get_layout(name: str) -> CheckpointLayout:
    """The layout of that name.

    Raises:
      UserError: unknown name.
    """
    if name not in LAYOUTS:
        raise UserError(f"layout must be {' or '.join(LAYOUTS)}; got {name!r}")
    return LAYOUTS[name]
