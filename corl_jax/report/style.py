"""The look of the pages that are not made from templates."""

from __future__ import annotations

import importlib.resources

CSS = (importlib.resources.files("corl_jax.report") / "templates/style.css").read_text("utf-8")
