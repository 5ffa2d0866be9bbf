"""Curves of a run: rows of ``metrics.jsonl`` become panels, each with an inline SVG."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from corl_jax.report.svg import PALETTE, add_grid, draw_svg

TASK_COLOURS = {"image": "#3f83f8", "text": "#f2853c"}
TASK_LABELS = {"image": "pictures", "text": "answers"}

MAIN_PANELS = (
    ("Reward", "reward", r"(image|text)/reward"),
    ("Reward of pictures, by part", "reward", r"image/reward/.+"),
    ("Reward of answers, by part", "reward", r"text/reward/.+"),
    ("Distance from the base (KL)", "nats per token", r"(image|text)/kl"),
    ("KL coefficient", "coefficient", r"(image|text)/kl_coefficient"),
    ("Entropy", "nats per token", r"(image|text)/entropy"),
    ("Length of answers", "tokens", r"text/completion_length"),
    ("Gradient norm", "norm", r"grad_norm"),
    ("Loss", "loss", r"loss"),
    ("Negative log-likelihood", "nats per token", r"(image|text)/nll"),
    ("Reconstruction", "PSNR in dB", r"psnr|eval/psnr"),
)
MORE_PANELS = (
    ("Spread of rewards within a group", "reward", r"(image|text)/reward_std"),
    ("Groups without signal", "share", r"(image|text)/zero_std_groups"),
    ("Interference of the tasks", "cosine of gradients", r"grad_interference/cosine"),
    ("Clipped tokens", "share", r"(image|text)/clip_fraction"),
    ("Probability ratio", "ratio", r"(image|text)/ratio"),
    ("Sampler against scorer", "nats per token", r"(image|text)/sampler_logp_diff"),
    (
        "Time per step",
        "seconds",
        r"time/(step|data|rollout_image|rollout_text|rollout_plan|rollout_check|rewards|update|checkpoint)",
    ),
)
"""Title, unit and pattern of columns for every panel: those to look at first, and the others."""
HIDDEN_COLUMNS = ("step", "alarms")
LARGEST = 1e15
"""Larger numbers are drawn as this one; Matplotlib finds no ticks for them."""
FEW_VALUES = 30
"""Up to so many values a curve shows markers and is not smoothed."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
      title: above the chart.
      unit: of its vertical axis.
      columns: of ``metrics.jsonl``, one curve each.
    """

    title: str
    unit: str
    columns: tuple[str, ...]


class Chart(NamedTuple):
    """A chart that is drawn."""

    title: str
    svg: Markup


def make_panels(columns: Sequence[str]) -> tuple[list[Panel], list[Panel]]:
    """Sorts columns into panels.

    Args:
      columns: names of columns.

    Returns:
      The panels to look at first, and the others. Every column except ``HIDDEN_COLUMNS`` is in
      exactly one; a column that matches no pattern gets a panel of its own.
    """
    # Patterns are tried in order; a column belongs to the first panel whose pattern it matches.
    remaining = [column for column in sorted(columns) if column not in HIDDEN_COLUMNS]
    panels: list[list[Panel]] = []
    for table in (MAIN_PANELS, MORE_PANELS):
        panels.append([])
        for title, unit, pattern in table:
            matches = tuple(column for column in remaining if re.fullmatch(pattern, column))
            remaining = [column for column in remaining if column not in matches]
            if matches:
                panels[-1].append(Panel(title, unit, matches))

    main, more = panels
    return main, more + [Panel(column, "", (column,)) for column in remaining]


def draw_charts(rows: Sequence[Mapping[str, float]]) -> dict[str, list[Chart]] | None:
    """Charts of a run, ``main`` and ``more``; None without rows.

    Args:
      rows: of ``metrics.jsonl``, NaN for null.
    """
    if not rows:
        return None
    # A column that is finite in no row has nothing to draw.
    columns = sorted({name for row in rows for name, value in row.items() if math.isfinite(value)})
    main, more = (
        [Chart(panel.title, draw_panel(panel, rows)) for panel in panels]
        for panels in make_panels(columns)
    )
    return {"main": main, "more": more}


def moving_mean(values: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """Centred moving mean over ``window`` values; the window shrinks at both ends."""
    half = window // 2
    # With a running total the sum of any window is one difference.
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    # The window of each index, clipped to the ends.
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def draw_panel(panel: Panel, rows: Sequence[Mapping[str, float]]) -> Markup:
    """A panel as an SVG element: thin lines for the values, strong lines for their moving mean."""
    return draw_svg(panel.title, 2.7, lambda axes: plot_panel(axes, panel, rows))


def plot_panel(axes: Axes, panel: Panel, rows: Sequence[Mapping[str, float]]) -> None:
    """Draws the curves of a panel on ``axes``."""
    for position, column in enumerate(panel.columns):
        colour = _colour(column, position, panel)
        _plot_curve(axes, rows, column, colour, curve_label(column, panel))

    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    add_grid(axes, "y")
    # A single curve is named by the title.
    if len(panel.columns) > 1:
        axes.legend(frameon=False, fontsize=8.5, handlelength=1.4)


def _plot_curve(
    axes: Axes, rows: Sequence[Mapping[str, float]], column: str, colour: str, label: str
) -> None:
    """One curve of a panel. Rows without the column, or with NaN in it, are left out."""
    pairs = [
        (row["step"], row[column]) for row in rows if column in row and math.isfinite(row[column])
    ]
    steps, values = np.clip(np.array(pairs, np.float64).reshape(-1, 2).T, -LARGEST, LARGEST)

    # Short curves are drawn as they are; long ones also as the mean over a twentieth of the run.
    few = len(values) <= FEW_VALUES
    window = 1 if few else max(3, len(values) // 20)
    if not few:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)

    axes.plot(
        steps,
        moving_mean(values, window),
        color=colour,
        linewidth=1.9,
        marker="o" if few else "",
        markersize=3,
        label=label,
    )


def curve_label(column: str, panel: Panel) -> str:
    """Name of a column in the legend of its panel."""
    task, _, metric = column.partition("/")
    # image/reward/NAME: the name of the reward.
    if "/reward/" in column:
        return column.rsplit("/", 1)[-1].replace("_", " ")
    # Where all curves show one metric, the task alone tells them apart.
    if task in TASK_LABELS and all(name.endswith(metric) for name in panel.columns):
        return TASK_LABELS[task]
    return column


def _colour(column: str, position: int, panel: Panel) -> str:
    """The colour of the task, if it has one curve in the panel, else the next of the palette."""
    task = column.partition("/")[0]
    if task in TASK_COLOURS and sum(name.startswith(task) for name in panel.columns) == 1:
        return TASK_COLOURS[task]
    return PALETTE[position % len(PALETTE)]
