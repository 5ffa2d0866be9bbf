"""Rules by which benchmarks score answers: pure functions of a question and a text."""
