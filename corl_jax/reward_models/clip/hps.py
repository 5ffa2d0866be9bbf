"""HPS v2: a CLIP ViT-H/14 that was trained on which of two pictures people prefer (arXiv 2306.09341).

Its score is the cosine of picture and prompt. It is published as ``HPS_v2.1_compressed.pt``, a
checkpoint of open_clip without a config and a tokenizer, and in the layout of transformers.
"""

from __future__ import annotations

import dataclasses
import pathlib

from corl_jax.core.errors import UserError
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.clip.weights import (
    CLIP,
    OPEN_CLIP_RULES,
    choose_clip_layout,
)

RELEASED_FILES = ("HPS_v2*.pt",)
"""The files of ``xswu/HPSv2``, versions 2.0 and 2.1; a folder has one of them."""


def choose_hps_layout(folder: pathlib.Path) -> RewardModelSpec:
    """The layout of a folder: the released file, or a CLIP as transformers or open_clip publish it.

    Raises:
      UserError: the folder has neither, or both versions of the released file.
    """
    released = sorted(file.name for pattern in RELEASED_FILES for file in folder.glob(pattern))
    if len(released) > 1:
        raise UserError(
            f"{str(folder)!r} must hold one version of HPS; got {', '.join(released)}. Move the "
            "others away"
        )
    if released:
        return RELEASED
    if not any((folder / file).is_file() for file in CLIP.config_files):
        raise UserError(
            f"{str(folder)!r} must hold {RELEASED_FILES[0]}, or {' or '.join(CLIP.config_files)}; "
            f"got neither. Name a folder with the file of xswu/HPSv2 and a CLIP's tokenizer, or "
            f"{HPS.hub_id}"
        )
    return choose_clip_layout(folder)


HPS = dataclasses.replace(
    CLIP,
    name="HPS model",
    hub_id="adams-story/HPSv2-hf",
    weight_files=(*CLIP.weight_files, *RELEASED_FILES),
    choose_layout=choose_hps_layout,
)
"""HPS v2 in any layout."""

RELEASED = dataclasses.replace(
    HPS,
    # The file has no sizes: they are those of ViT-H/14.
    read_config=lambda raw, folder: HPS.full_config,
    config_file=None,
    other_config_files=(),
    rules=OPEN_CLIP_RULES,
    weight_files=RELEASED_FILES,
    choose_layout=None,
)
"""HPS v2 as it was released."""
