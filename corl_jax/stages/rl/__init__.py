"""The reinforcement learning stage: GRPO over text-to-image and image-to-text at once."""
