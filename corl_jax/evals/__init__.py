"""Measuring, never training: numbers with standard errors, galleries, and the report of a run."""
