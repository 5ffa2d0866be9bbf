"""The embedded world of shapes: scene to picture, caption and questions, and from the picture back to the scene."""
