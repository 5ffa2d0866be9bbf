"""Rewards: functions over completions, registered by name, chosen and weighted in a config.

Importing this package registers all of them.
"""

from corl_jax.rewards import clip, cycle, image_distance, length, matching, self_vqa, shapes, text

__all__ = ["clip", "cycle", "image_distance", "length", "matching", "self_vqa", "shapes", "text"]
