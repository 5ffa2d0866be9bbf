"""Co-reinforcement learning for models that both understand and draw pictures.

``Policy`` is loaded on first use, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corl_jax.sampling.policy import Policy

__version__ = "0.1.0"
__all__ = ["Policy", "__version__"]


def __getattr__(name: str) -> Any:
    """``Policy``, from the room that it lives in."""
    if name == "Policy":
        return importlib.import_module("corl_jax.sampling.policy").Policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
