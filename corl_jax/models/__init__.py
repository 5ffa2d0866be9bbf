"""The policy's networks as Flax NNX modules: shapes, parameters and logical axes, no training.

``interface.py`` lists the members that the other packages use; ``janus/`` implements it.
"""
