"""Checkpoints: what a step folder holds, how it is written and read, and how damage is noticed."""
