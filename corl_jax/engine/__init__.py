"""The training loop, and what it needs: optimizer, state, checkpoints, hooks, work directory."""
