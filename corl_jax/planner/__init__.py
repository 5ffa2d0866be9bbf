"""The planner: what a training step needs of a slice, from the programs that training compiles."""
