"""Where the curves of a run go beside its files: TensorBoard, Weights & Biases, trackio."""
