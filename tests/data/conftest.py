"""Lets Grain read its absl flags under pytest."""

from absl import flags

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])
