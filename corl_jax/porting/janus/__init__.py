"""The published layouts of Janus-Pro: names of tensors, config files, and the files beside the weights."""
