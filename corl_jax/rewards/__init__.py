"""Rewards: functions over completions, registered by name, chosen and weighted in a config.

Importing this package registers all of them.
"""

from corl_jax.rewards import (
    clip,
    cycle,
    hps,
    image_distance,
    length,
    likelihood,
    matching,
    perception,
    self_vqa,
    shapes,
    text,
)

__all__ = [
    "clip",
    "cycle",
    "hps",
    "image_distance",
    "length",
    "likelihood",
    "matching",
    "perception",
    "self_vqa",
    "shapes",
    "text",
]
