"""Which differences of results are real: pairs of records, resampled by cluster."""
