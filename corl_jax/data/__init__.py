"""Data on the host: the embedded world, records and their sources, text, pictures, and the Grain pipeline."""
