"""A study on one page, ``study.html``: table, plots, every command. In: cells; out: static HTML without scripts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes

from corl_jax.evals.statistics import percent
from corl_jax.report.style import CSS
from corl_jax.report.svg import GREY, INK, OTHERS, grid, svg
from corl_jax.studies.comparison import Cell, Job, Study


def page(
    name: str, study: Study, cells: Mapping[str, Mapping[str, Cell]], ran: Sequence[Job], about: str
) -> str:
    """The page as text; ``about`` names machine, versions and date."""
    head = "".join(f"<th>{escape(metric)}</th>" for metric in study.metrics)
    body = "".join(
        f"<tr><th>{escape(arm)}</th>"
        + "".join(
            f"<td>{percent(row[metric].mean, row[metric].stderr)}</td>" for metric in study.metrics
        )
        + "</tr>"
        for arm, row in cells.items()
    )
    plots = "".join(
        f'<div class="card">{svg(metric, _height(cells), _row(metric, cells))}</div>'
        for metric in study.metrics
    )
    lines = "\n".join(f"python -m {shlex.join(job.arguments)}" for job in ran)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>corl_jax: study {escape(name)}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{escape(name)}</h1><p>{escape(study.question)}</p><p class=soft>{escape(study.claim)}</p>"
        f"<p class=soft>{escape(about)}</p>"
        f'<div class="card"><table><tr><th></th>{head}</tr>{body}</table></div>'
        "<p class=small>Per cent, mean and standard error over seeds; points are seeds.</p>"
        f'<div class="grid tiles">{plots}</div>'
        f"<h2>Commands</h2><details><summary>All that was run</summary><pre>{escape(lines)}</pre></details>"
        "</main></body></html>\n"
    )


def picture(name: str, study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """All plots together, for a file."""
    return (
        svg(name, _height(cells), *(_row(metric, cells) for metric in study.metrics), ink=GREY)
        + "\n"
    )


def _height(cells: Mapping[str, Any]) -> float:
    return 0.9 + 0.34 * len(cells)


def _row(metric: str, cells: Mapping[str, Mapping[str, Cell]]) -> Callable[[Axes], None]:
    """What paints one metric of all arms: mean, standard error, and a mark per seed."""

    def paint(axes: Axes) -> None:
        for place, row in enumerate(cells.values()):
            cell, colour = row[metric], OTHERS[place % len(OTHERS)]
            axes.plot(100 * cell.mean, place, "o", color=colour, markersize=7)
            if cell.stderr is not None:
                ends = [100 * (cell.mean - cell.stderr), 100 * (cell.mean + cell.stderr)]
                axes.plot(ends, [place, place], color=colour, linewidth=2)
            axes.plot(
                [100 * value for value in cell.values],
                [place] * len(cell.values),
                "|",
                color=INK,
                alpha=0.6,
            )
        axes.set_title(metric)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.invert_yaxis()
        grid(axes, "x")

    return paint
