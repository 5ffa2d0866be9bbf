"""Co-reinforcement learning for models that both understand and draw pictures.

``Policy`` and ``ImageCodec`` are loaded on first use, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corl_jax.sampling.image_codec import ImageCodec
    from corl_jax.sampling.policy import Policy

__version__ = "0.1.0"
__all__ = ["ImageCodec", "Policy", "__version__"]
HOMES = {"Policy": "corl_jax.sampling.policy", "ImageCodec": "corl_jax.sampling.image_codec"}


def __getattr__(name: str) -> Any:
    """A name of ``HOMES``, from the room that it lives in."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
