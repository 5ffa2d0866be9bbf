"""Curves of chosen columns of ``metrics.jsonl`` as inline SVG, and the same in numbers.

SVG has the colours of the page, light or dark, needs nothing from the network, and its text can be
read aloud. Curves differ in dashes as well as in colour.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from corl_jax.report.charts import (
    HIDDEN_COLUMNS,
    LARGEST,
    TASK_COLOURS,
    Panel,
    curve_label,
    make_panels,
    moving_mean,
)
from corl_jax.report.svg import add_grid, draw_svg

COLOURS = ("#3f83f8", "#e69f00", "#12a07a", "#cc79a7", "#e0662b", "#7fa3b5")
"""Hues of the palette of Okabe and Ito, which colour-blind people tell apart, as light as can be read
on light pages and on dark ones."""
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MOST_POINTS = 1500
"""More points of a curve would be finer than a screen."""
FEW_VALUES = 30
"""Up to so many values are marked one by one."""

Row = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Chart:
    """One panel.

    Attributes:
      title: above it.
      svg: the plot.
      numbers: ``(column, first, last, least, greatest)`` of each of its curves.
    """

    title: str
    svg: Markup
    numbers: tuple[tuple[str, ...], ...]


def drawable_columns(rows: Sequence[Row]) -> list[str]:
    """Columns that are finite somewhere, sorted."""
    names = {name for row in rows for name, value in row.items() if math.isfinite(value)}
    return sorted(names - set(HIDDEN_COLUMNS))


def default_columns(rows: Sequence[Row]) -> list[str]:
    """The columns to look at first: those of the report's main panels."""
    main, _ = make_panels(drawable_columns(rows))
    return [column for panel in main for column in panel.columns]


def make_charts(rows: Sequence[Row], columns: Sequence[str], window: int) -> list[Chart]:
    """Charts of some columns, grouped as in the report.

    Args:
      rows: of ``metrics.jsonl``, NaN for null.
      columns: to draw; those without a finite value are left out.
      window: steps of the moving mean; 1 draws the values as they are.
    """
    available = set(drawable_columns(rows))
    main, more = make_panels([column for column in columns if column in available])
    return [_chart(panel, rows, window) for panel in main + more]


def _chart(panel: Panel, rows: Sequence[Row], window: int) -> Chart:
    curves = {column: read_curve(rows, column) for column in panel.columns}

    def plot(axes: Axes) -> None:
        for place, (column, (steps, values)) in enumerate(curves.items()):
            _plot_curve(axes, steps, values, window, place, column, panel)
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        add_grid(axes, "y")
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8.5, handlelength=2.6)

    numbers = tuple(
        (column, *(f"{value:.4g}" for value in (v[0], v[-1], v.min(), v.max())))
        for column, (_, v) in curves.items()
    )
    return Chart(panel.title, draw_svg(panel.title, 2.7, plot), numbers)


def read_curve(rows: Sequence[Row], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of a column: two float64 arrays of one length."""
    pairs = [
        (row["step"], row[column]) for row in rows if column in row and math.isfinite(row[column])
    ]
    steps, values = np.clip(np.array(pairs, np.float64).reshape(-1, 2).T, -LARGEST, LARGEST)
    return steps, values


def thin_out(length: int) -> np.ndarray:
    """Indices of at most ``MOST_POINTS`` points of a curve, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, MOST_POINTS)).astype(int))


def _plot_curve(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    window: int,
    place: int,
    column: str,
    panel: Panel,
) -> None:
    """The moving mean as a strong line, and under it the values as a thin one."""
    task = column.partition("/")[0]
    is_only_of_task = sum(name.startswith(task) for name in panel.columns) == 1
    colour = COLOURS[place % len(COLOURS)]
    if task in TASK_COLOURS and is_only_of_task:
        colour = TASK_COLOURS[task]

    kept = thin_out(len(values))
    if window > 1:
        axes.plot(steps[kept], values[kept], color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(
        steps[kept],
        moving_mean(values, window)[kept],
        color=colour,
        linewidth=1.9,
        linestyle=DASHES[place % len(DASHES)],
        marker="o" if len(values) <= FEW_VALUES else "",
        markersize=3,
        label=curve_label(column, panel),
    )
