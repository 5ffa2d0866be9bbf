"""The pages that a run leaves for people: curves, tables and samples of what others measured."""
