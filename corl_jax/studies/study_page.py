"""A study on one page, ``study.html``: what became of its claim, table, plots and every command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from corl_jax.report.comparison_tables import tabulate
from corl_jax.report.metric_text import is_reward
from corl_jax.report.rendering import render
from corl_jax.report.svg import GREY, INK, PALETTE, add_grid, draw_svg
from corl_jax.studies.comparison import CommandRun, Study, format_cell
from corl_jax.studies.forgetting import measure_forgetting
from corl_jax.studies.forgetting_section import (
    describe_order,
    list_forgotten,
    list_orders,
    tabulate_transfer,
)
from corl_jax.studies.verdicts import (
    Cells,
    judge_claim,
    list_differences,
    summarize,
)


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
    verdicts = judge_claim(study, cells)
    arms = list(cells)
    return render(
        "study.html",
        title=f"corl_jax: study {name}",
        name=name,
        study=study,
        provenance=provenance,
        # What the figures say of the claim.
        verdicts=verdicts,
        outcome=summarize(verdicts),
        # The figures.
        table={
            arm: [format_cell(metric, row[metric]) for metric in study.columns]
            for arm, row in cells.items()
        },
        order=_order_section(study, cells),
        first_arm=arms[0],
        differences=tabulate(list_differences(study, cells), arms),
        plots=[
            draw_svg(metric, _height(cells), _plotter(metric, cells)) for metric in study.columns
        ],
        # Every command as it can be pasted into a shell.
        commands="\n".join(f"python -m {shlex.join(run.arguments)}" for run in runs),
    )


def _order_section(study: Study, cells: Cells) -> dict[str, object] | None:
    """What the section of the order of tasks shows; None where there is nothing yet."""
    figures = measure_forgetting(study, cells)
    if figures is None:
        return None
    return {
        "tasks": figures.spec.tasks,
        "rows": tabulate_transfer(figures),
        "forgotten": list_forgotten(figures),
        "words": describe_order(figures),
        "orders": list_orders(figures, cells),
    }


def render_study_svg(name: str, study: Study, cells: Cells) -> str:
    """All plots in one SVG file."""
    # A file has no page to take its colour from, so it gets a grey that both themes can show.
    plotters = [_plotter(metric, cells) for metric in study.columns]
    return draw_svg(name, _height(cells), *plotters, ink=GREY) + "\n"


def _height(cells: Cells) -> float:
    """Height of a plot in inches: one line per arm."""
    return 1.1 + 0.34 * len(cells)


def _plotter(metric: str, cells: Cells) -> Callable[[Axes], None]:
    """Plots one metric of all arms: mean, standard error, and a mark per seed."""

    scale = 1 if is_reward(metric) else 100

    def plot(axes: Axes) -> None:
        for position, row in enumerate(cells.values()):
            cell = row[metric]
            colour = PALETTE[position % len(PALETTE)]
            axes.plot(scale * cell.mean, position, "o", color=colour, markersize=7)
            # A single seed has no error bar.
            if cell.stderr is not None:
                ends = [scale * (cell.mean - cell.stderr), scale * (cell.mean + cell.stderr)]
                axes.plot(ends, [position, position], color=colour, linewidth=2)

            # One short stroke per seed.
            axes.plot(
                [scale * value for value in cell.values],
                [position] * len(cell.values),
                "|",
                color=INK,
                alpha=0.6,
            )

        # The first arm is at the top, as in the table.
        axes.set_title(metric)
        axes.set_xlabel("reward" if is_reward(metric) else "per cent")
        axes.set_yticks(range(len(cells)), list(cells))
        axes.invert_yaxis()
        add_grid(axes, "x")

    return plot
