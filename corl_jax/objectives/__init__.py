"""The mathematics of the losses: pure functions from arrays to arrays."""
