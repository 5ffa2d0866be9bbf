"""The pages that a run leaves for people: curves, tables, samples. Shows what others measured."""
