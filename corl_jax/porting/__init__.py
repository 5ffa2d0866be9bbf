"""Reads and writes checkpoints of other programs: tensor names, Hugging Face folders, merging."""
