"""Networks: the Janus architecture as Flax NNX modules. Shapes and logical axes; no training."""
