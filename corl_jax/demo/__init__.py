"""The page of ``corl demo``: draw, ask, watch a run, compare two policies."""
