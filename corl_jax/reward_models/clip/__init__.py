"""CLIP: how well an image fits a text."""
