"""Co-reinforcement learning for models that both understand and draw pictures."""

__version__ = "0.1.0"
