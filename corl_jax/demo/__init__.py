"""A page in the browser: draw pictures, ask about them, watch a run, compare two policies."""
