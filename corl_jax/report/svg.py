"""Plots as inline SVG in the page's own colour. In: what paints on axes; out: an SVG element."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#123457"
"""Stands for the page's text colour until the SVG is written."""
OTHERS = ("#8f7cf7", "#22a99a", "#e2588b", "#c9a227", "#6b8ba4")
"""Colours of what has none of its own."""
GREY = "#808080"
"""The same in a file of its own, on light and on dark pages."""
WIDTH = 4.6


def svg(name: str, height: float, *paints: Callable[[Axes], Any], ink: str = "currentColor") -> str:
    """Plots in two columns, or one alone, each of 4.6 inches by ``height`` and without frame.

    Args:
      name: tells its elements from those of others on a page.
      paints: one for each plot.
      ink: of text and lines.
    """
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9.5,
    } | dict.fromkeys(inked, INK)
    with matplotlib.rc_context(settings):
        columns, rows = min(2, len(paints)), math.ceil(len(paints) / 2)
        figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        for place, paint in enumerate(paints, 1):
            axes = figure.add_subplot(rows, columns, place)
            paint(axes)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, ink)
    return re.sub(
        r'^<svg height="[^"]*"( [^>]*?) width="[^"]*"', r'<svg role="img"\1', text, count=1
    )


def grid(axes: Axes, axis: str) -> None:
    """Light lines across ``axis``."""
    axes.grid(True, axis=axis, color=INK, alpha=0.13, linewidth=0.7)  # type: ignore[arg-type]
