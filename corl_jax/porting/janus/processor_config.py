"""Checks that a model folder expects images prepared as ``data.images`` prepares them.

Compatible with ``JanusImageProcessor`` (transformers 5) and ``VLMImageProcessor`` (original code):
the settings are in ``preprocessor_config.json``, or in the block ``image_processor`` of
``processor_config.json``, which transformers 5 writes and which comes first.
"""

from __future__ import annotations

import pathlib

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.data.images import GREY, MIN_SIDE

ADVICE = (
    "corl_jax prepares images as Janus-Pro does; take the file of the original checkpoint, or set "
    "the value"
)
BICUBIC = 3
"""In PIL's numbering."""


def check_image_processor(folder: pathlib.Path, image_size: int) -> None:
    """Checks the settings of a model folder, if it has any.

    Args:
      folder: of the model.
      image_size: side in pixels of the images that its vision tower reads.

    Raises:
      UserError: a setting with which the model would see other pixels than here. An absent mean or
        standard deviation is one, for which both codes have those of CLIP.
    """
    settings = _read_settings(folder)
    if settings is None:
        return

    # Mean and standard deviation bring bytes to [-1, 1].
    for name in ("image_mean", "image_std"):
        settings.require(name, [0.5] * 3)
    settings.require("rescale_factor", 1 / 255, default=1 / 255)
    for name in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        settings.require(name, True, default=True)

    # The longer side fills a square, and the rest of it is grey.
    settings.require("min_size", MIN_SIDE, default=MIN_SIDE)
    settings.require("resample", BICUBIC, default=BICUBIC)
    settings.require("background_color", list(GREY), default=list(GREY))
    if "image_size" in settings.entries:
        settings.require("image_size", image_size)
    if settings.entries.get("size", image_size) != image_size:
        size = settings.block("size")
        size.require("height", image_size)
        size.require("width", image_size)


def _read_settings(folder: pathlib.Path) -> JsonObject | None:
    """The settings that count, or None."""
    path = folder / "processor_config.json"
    if path.is_file():
        processor = JsonObject.read(path, f"{path.name} of {str(folder)!r}", ADVICE)
        if processor.has("image_processor"):
            return processor.block("image_processor")

    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    return JsonObject.read(path, f"{path.name} of {str(folder)!r}", ADVICE)
