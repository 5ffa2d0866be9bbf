"""Measures policies without training them: metrics with standard errors, and sample galleries."""
