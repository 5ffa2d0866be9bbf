"""Benchmarks of this machine: decoding, a training step, its scaling, attention kernels; each beside transformers."""
