"""Recipes: each file assembles one stage from the rooms below. ``run`` is what ``main`` calls."""
