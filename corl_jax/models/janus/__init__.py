"""Janus-Pro: vision tower, image tokenizer, and the model that joins them to the backbone."""
