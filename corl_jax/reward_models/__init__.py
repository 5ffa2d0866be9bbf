"""Reward models: a folder each with modules, tensor names, tokenizer and a wrapper for rewards."""
