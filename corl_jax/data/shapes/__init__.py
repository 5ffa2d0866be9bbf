"""The embedded world of shapes: from a scene to its image, caption and questions, and back."""
