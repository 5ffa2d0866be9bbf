"""LPIPS on VGG16: how different two pictures look."""
