"""The two published layouts of Janus-Pro as data: names of tensors, how ``config.json`` is read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus import hf_config, original_config
from corl_jax.porting.janus.tensor_names import ORIGINAL, ORIGINAL_UNUSED, TRANSFORMERS
from corl_jax.porting.rules import Rule


@dataclasses.dataclass(frozen=True)
class Format:
    """One layout.

    Attributes:
      name: as given to ``corl export --layout``.
      model_type: how its ``config.json`` calls itself.
      rules: the table of tensors.
      unused: patterns of tensors that are knowingly left alone.
      prefix: of names, which older writers left out; "" if there is none.
      read_config: ``(config.json, folder) -> sizes``.
      image_token_id: ``(config.json, tokenizer's pad id, tokenizer's image id) -> image id that the weights know``.
    """

    name: str
    model_type: str
    rules: tuple[Rule, ...]
    unused: tuple[str, ...]
    prefix: str
    read_config: Callable[[Any, str], JanusConfig]
    image_token_id: Callable[[Any, int, int], int]


FORMATS = {
    form.name: form
    for form in (
        Format(
            "transformers",
            "janus",
            TRANSFORMERS,
            (),
            "model.",
            hf_config.read_config,
            hf_config.image_token_id,
        ),
        Format(
            "original",
            "multi_modality",
            ORIGINAL,
            ORIGINAL_UNUSED,
            "",
            original_config.read_config,
            original_config.image_token_id,
        ),
    )
}


def format_of(raw: Any, where: str) -> Format:
    """The layout that a ``config.json`` belongs to.

    Raises:
      UserError: it is no object of settings, or of another kind of model.
    """
    if not isinstance(raw, dict):
        raise UserError(
            f"config.json in {where!r} holds a {type(raw).__name__}; expected an object of settings"
        )
    for form in FORMATS.values():
        if raw.get("model_type") == form.model_type:
            return form
    raise UserError(
        f"{where!r} holds a model of type {raw.get('model_type')!r}; expected a Janus folder: "
        + " or ".join(f"{form.model_type!r} ({form.name} layout)" for form in FORMATS.values())
    )


def named_format(name: str) -> Format:
    """A layout by name.

    Raises:
      UserError: unknown name.
    """
    if name not in FORMATS:
        raise UserError(f"unknown layout {name!r}; expected {' or '.join(FORMATS)}")
    return FORMATS[name]
