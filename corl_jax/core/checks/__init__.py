"""Values from outside, checked where they come in: JSON, paths, fields of configs."""
