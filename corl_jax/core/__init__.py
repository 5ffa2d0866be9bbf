"""The ground floor: types, sharding, numerics, randomness and trees. Imports nothing of ours."""
