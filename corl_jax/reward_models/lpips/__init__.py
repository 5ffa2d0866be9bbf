"""LPIPS on VGG16: how different two images look."""
