"""Fixtures for the comparison with transformers' torch models."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def torch():
    """PyTorch on one thread, or a skip."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def assert_close():
    """A function that asserts that two arrays differ little, relative to the largest number."""

    def check(actual, expected, tolerance=1e-4):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        assert np.isfinite(expected).all() and expected.std() > 0
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        assert difference < tolerance, f"relative difference {difference:.1e}"

    return check
