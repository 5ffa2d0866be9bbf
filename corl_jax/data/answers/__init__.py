"""How answers are read: one rule for completions, reference answers and records."""
