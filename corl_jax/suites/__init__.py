"""Benchmarks: questions and prompts that their owners publish, answered, scored and compared."""
