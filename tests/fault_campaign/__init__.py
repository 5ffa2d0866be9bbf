"""Small real runs that are hurt in many ways. ``tests/faults.py`` is the door."""
