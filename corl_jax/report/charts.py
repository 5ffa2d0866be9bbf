"""Curves of a run as inline SVG. In: rows of ``metrics.jsonl``; out: one SVG per unit, in the page's own colour."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from corl_jax.report.svg import OTHERS, grid, svg

TASKS = {"image": "#3f83f8", "text": "#f2853c"}
NAMES = {"image": "pictures", "text": "answers"}

MAIN = (
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
MORE = (
    ("Spread of rewards within a group", "reward", r"(image|text)/reward_std"),
    ("Groups without signal", "share", r"(image|text)/zero_std_groups"),
    ("Interference of the tasks", "cosine of gradients", r"grad_interference/cosine"),
    ("Clipped tokens", "share", r"(image|text)/clip_fraction"),
    ("Probability ratio", "ratio", r"(image|text)/ratio"),
    ("Sampler against scorer", "nats per token", r"(image|text)/sampler_logp_diff"),
    ("Time per step", "seconds", r"time/step"),
)
HIDDEN = ("step", "alarms")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart: ``columns`` share the unit of its axis."""

    title: str
    unit: str
    columns: tuple[str, ...]


def panels(columns: Sequence[str]) -> tuple[list[Panel], list[Panel]]:
    """The charts that matter most, and the others; every column but ``HIDDEN`` is in one."""
    left = [column for column in sorted(columns) if column not in HIDDEN]
    found: list[list[Panel]] = []
    for table in (MAIN, MORE):
        found.append([])
        for title, unit, pattern in table:
            mine = tuple(column for column in left if re.fullmatch(pattern, column))
            left = [column for column in left if column not in mine]
            if mine:
                found[-1].append(Panel(title, unit, mine))
    return found[0], found[1] + [Panel(column, "", (column,)) for column in left]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean; the window shrinks at the ends."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def draw(panel: Panel, rows: Sequence[Mapping[str, float | None]]) -> str:
    """``panel`` as an SVG element: light raw lines, strong smoothed ones."""

    def paint(axes: Axes) -> None:
        for i, column in enumerate(panel.columns):
            pairs = [
                (row["step"], row[column])
                for row in rows
                if column in row and row[column] is not None
            ]
            steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
            colour = _colour(column, i, panel)
            few = len(values) <= 30
            window = 1 if few else max(3, len(values) // 20)
            if not few:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            mean, marker = smooth(values, window), "o" if few else ""
            axes.plot(
                steps,
                mean,
                color=colour,
                linewidth=1.9,
                marker=marker,
                markersize=3,
                label=label(column, panel),
            )
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        grid(axes, "y")
        if len(panel.columns) > 1:
            axes.legend(frameon=False, fontsize=8.5, handlelength=1.4)

    return svg(panel.title, 2.7, paint)


def label(column: str, panel: Panel) -> str:
    """What a legend calls a column."""
    task, _, rest = column.partition("/")
    if "/reward/" in column:
        return column.rsplit("/", 1)[-1].replace("_", " ")
    if task in NAMES and all(other.endswith(rest) for other in panel.columns):
        return NAMES[task]
    return column


def _colour(column: str, place: int, panel: Panel) -> str:
    task = column.partition("/")[0]
    if task in TASKS and sum(other.startswith(task) for other in panel.columns) == 1:
        return TASKS[task]
    return OTHERS[place % len(OTHERS)]
