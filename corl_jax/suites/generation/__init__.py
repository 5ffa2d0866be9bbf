"""Suites of prompts: pictures drawn into the folders that the official judges read, and our scores."""
