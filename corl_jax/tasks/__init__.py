"""Tasks: how records become prompts, and rollouts become completions."""
