"""Benchmarks on this machine: image decoding, a training step, its scaling, attention kernels."""
