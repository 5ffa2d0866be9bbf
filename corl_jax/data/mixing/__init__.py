"""Several sets of records as one: which of them a step has, and how that changes during a run."""
