"""A study on one page, ``study.html``: table, plots and every command, without scripts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape

from matplotlib.axes import Axes

from corl_jax.evals.statistics import format_percent
from corl_jax.report.style import CSS
from corl_jax.report.svg import GREY, INK, PALETTE, add_grid, draw_svg
from corl_jax.studies.comparison import Cell, CommandRun, Study

Cells = Mapping[str, Mapping[str, Cell]]
"""By arm and metric, from ``comparison.make_table``."""


def render_study_page(
    name: str, study: Study, cells: Cells, runs: Sequence[CommandRun], provenance: str
) -> str:
    """The page as HTML text.

    Args:
      name: of the study.
      study: what is compared.
      cells: its results.
      runs: the commands that were run.
      provenance: machine, date and command.
    """
    # One card per metric.
    plots = "".join(
        f'<div class="card">{draw_svg(metric, _height(cells), _plotter(metric, cells))}</div>'
        for metric in study.metrics
    )

    # Every command as it can be pasted into a shell.
    lines = "\n".join(f"python -m {shlex.join(run.arguments)}" for run in runs)

    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>corl_jax: study {escape(name)}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{escape(name)}</h1><p>{escape(study.question)}</p>"
        f"<p class=soft>{escape(study.claim)}</p>"
        f"<p class=soft>{escape(provenance)}</p>"
        f'<div class="card">{_table(study, cells)}</div>'
        "<p class=small>Per cent, mean and standard error over seeds; points are seeds.</p>"
        f'<div class="grid tiles">{plots}</div>'
        "<h2>Commands</h2><details><summary>All that was run</summary>"
        f"<pre>{escape(lines)}</pre></details>"
        "</main></body></html>\n"
    )


def render_study_svg(name: str, study: Study, cells: Cells) -> str:
    """All plots in one SVG file."""
    # A file has no page to take its colour from, so it gets a grey that both themes can show.
    plotters = [_plotter(metric, cells) for metric in study.metrics]
    return draw_svg(name, _height(cells), *plotters, ink=GREY) + "\n"


def _table(study: Study, cells: Cells) -> str:
    """One row per arm, one column per metric."""
    # The first column has no heading, since it is the arms.
    head = "".join(f"<th>{escape(metric)}</th>" for metric in study.metrics)
    rows = []
    for arm, row in cells.items():
        texts = [format_percent(row[metric].mean, row[metric].stderr) for metric in study.metrics]
        columns = "".join(f"<td>{text}</td>" for text in texts)
        rows.append(f"<tr><th>{escape(arm)}</th>{columns}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _height(cells: Cells) -> float:
    """Height of a plot in inches: one line per arm."""
    return 0.9 + 0.34 * len(cells)


def _plotter(metric: str, cells: Cells) -> Callable[[Axes], None]:
    """Plots one metric of all arms: mean, standard error, and a mark per seed."""

    def plot(axes: Axes) -> None:
        for position, row in enumerate(cells.values()):
            cell = row[metric]
            colour = PALETTE[position % len(PALETTE)]
            axes.plot(100 * cell.mean, position, "o", color=colour, markersize=7)
            # A single seed has no error bar.
            if cell.stderr is not None:
                ends = [100 * (cell.mean - cell.stderr), 100 * (cell.mean + cell.stderr)]
                axes.plot(ends, [position, position], color=colour, linewidth=2)

            # One short stroke per seed.
            axes.plot(
                [100 * value for value in cell.values],
                [position] * len(cell.values),
                "|",
                color=INK,
                alpha=0.6,
            )

        # The first arm is at the top, as in the table.
        axes.set_title(metric)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.invert_yaxis()
        add_grid(axes, "x")

    return plot
