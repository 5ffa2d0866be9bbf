"""Grain reads absl flags, which pytest does not parse."""

from absl import flags

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])
