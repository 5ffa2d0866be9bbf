"""BLIP's captioner: what an image shows, in words."""
