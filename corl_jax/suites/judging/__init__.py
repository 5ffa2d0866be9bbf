"""Judges drawn pictures where the official judge does not run: a detector and GenEval's rules."""
