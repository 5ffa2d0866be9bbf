"""BLIP's captioner: what a picture shows, in words."""
