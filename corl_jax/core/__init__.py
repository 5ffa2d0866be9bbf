"""The lowest layer: types, sharding, random streams, parameter trees. It imports no other room."""
