"""Janus-Pro: vision tower, image tokenizer, and the model that joins them with the language model."""
