"""Data on the host: the embedded shapes world, records and their sources, text, images, batches."""
