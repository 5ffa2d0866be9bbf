"""Policies in the harnesses of others; see docs/suites_harness.md."""
