"""Plots as inline SVG whose text and lines have the colour of the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#123457"
"""Placeholder for the colour of text and lines, replaced when the SVG is complete."""
PALETTE = ("#8f7cf7", "#22a99a", "#e2588b", "#c9a227", "#6b8ba4")
"""Colours of series that have no colour of their own."""
GREY = "#808080"
"""Ink of an SVG file of its own, readable on light and on dark pages."""
WIDTH = 4.6
"""Width of a plot, in inches."""


def draw_svg(
    name: str,
    height: float,
    *plotters: Callable[[Axes], object],
    ink: str = "currentColor",
) -> Markup:
    """Draws one plot per plotter, in two columns if there are several, each without a frame.

    Args:
      name: makes the ids of the SVG's elements differ from those of other SVGs on a page.
      height: of a plot, in inches.
      plotters: each draws on the axes that it gets.
      ink: colour of text and lines; ``currentColor`` is the text colour of the page.

    Returns:
      An ``svg`` element without fixed size.
    """
    ink_keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9.5,
        # Names of metrics and files are no formulas.
        "text.parse_math": False,
    } | dict.fromkeys(ink_keys, INK)

    with matplotlib.rc_context(settings):
        columns, rows = min(2, len(plotters)), math.ceil(len(plotters) / 2)
        figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        for position, plotter in enumerate(plotters, 1):
            axes = figure.add_subplot(rows, columns, position)
            plotter(axes)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)

        # Without date and creator the same plot gives the same bytes.
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )

    # matplotlib cannot write currentColor, so the placeholder is replaced in the text.
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, ink)
    # Without width and height the element fills its card. Matplotlib has escaped all texts.
    return Markup(
        re.sub(r'^<svg height="[^"]*"( [^>]*?) width="[^"]*"', r'<svg role="img"\1', text, count=1)
    )


def add_grid(axes: Axes, axis: str) -> None:
    """Adds light lines across ``axis`` (``x`` or ``y``)."""
    axes.grid(True, axis=axis, color=INK, alpha=0.13, linewidth=0.7)  # type: ignore[arg-type]
