"""Compiled programs as the compiler prints them: instructions, the bytes that they move, exchanges."""
