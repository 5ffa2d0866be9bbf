"""Comparisons of several recipes, each over several seeds."""
