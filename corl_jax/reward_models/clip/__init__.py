"""CLIP: how well a picture fits a text."""
