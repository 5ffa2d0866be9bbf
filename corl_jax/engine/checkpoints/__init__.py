"""Checkpoints: what a step folder holds, how it is written and read, and how damage is noticed."""

import absl.logging

# Orbax logs every save and restore at INFO, and at WARNING what it does not miss in our folders.
absl.logging.set_verbosity(absl.logging.ERROR)
