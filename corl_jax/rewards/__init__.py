"""Rewards: named functions over completions, chosen and weighted in a config."""

from corl_jax.rewards import cycle, image_distance, matching, self_vqa, shapes, text

__all__ = ["cycle", "image_distance", "matching", "self_vqa", "shapes", "text"]
