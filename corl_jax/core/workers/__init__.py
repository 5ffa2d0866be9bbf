"""Processes beside the program that run functions for it: they import no JAX and hold no GIL of it."""
