"""The section of a study of the order of tasks, in study.md and on its page: backward transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from corl_jax.report.metric_text import format_number
from corl_jax.studies.comparison import Cell, format_cell
from corl_jax.studies.forgetting import Forgetting


class HeatCell(NamedTuple):
    """One cell of the matrix.

    Attributes:
      text: the change and its standard error over seeds.
      look: ``gain`` or ``loss``, "" for no change.
      heat: how strong it is, in per cent of the largest change of its column.
    """

    text: str
    look: str
    heat: int


class MatrixRow(NamedTuple):
    """What training one task alone changed.

    Attributes:
      task: that was trained.
      cells: one per task that was measured.
    """

    task: str
    cells: tuple[HeatCell, ...]


def tabulate_transfer(figures: Forgetting) -> list[MatrixRow]:
    """The matrix of backward transfer: a row per trained task, a column per measured one."""
    columns = [figures.spec.columns[task] for task in figures.spec.tasks]
    # Metrics may have different units, so the heat is by column.
    reaches = [
        max(abs(cell.mean) for cell in column) for column in zip(*figures.transfer, strict=True)
    ]
    return [
        MatrixRow(
            task,
            tuple(
                HeatCell(
                    format_signed(name, cell),
                    "gain" if cell.mean > 0 else "loss" if cell.mean < 0 else "",
                    round(100 * abs(cell.mean) / reach) if reach else 0,
                )
                for name, cell, reach in zip(columns, row, reaches, strict=True)
            ),
        )
        for task, row in zip(figures.spec.tasks, figures.transfer, strict=True)
    ]


def format_signed(name: str, cell: Cell) -> str:
    """A mean change with its sign, and its standard error."""
    return ("+" if cell.mean >= 0 else "") + format_cell(name, cell)


def list_forgotten(figures: Forgetting) -> list[str]:
    """The forgettability of every task, in the unit of its metric."""
    return [
        format_number(figures.spec.columns[task], value)
        for task, value in zip(figures.spec.tasks, figures.forgotten, strict=True)
    ]


def list_orders(figures: Forgetting, cells: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """Every measured order of tasks with its score, the highest first."""
    return [
        f"{arm} {format_cell(figures.spec.score, cells[arm][figures.spec.score])}"
        for arm in figures.ranks
    ]


def describe_order(figures: Forgetting) -> str:
    """The prescribed order in words, and how it did among all orders."""
    words = f"The least forgettable first: {', then '.join(figures.order)}."
    if figures.rank is None:
        return words
    return (
        f"{words} Of {len(figures.ranks)} orders it has place {figures.rank} by {figures.spec.score}; "
        "by chance every place is as likely."
    )


def render_order(figures: Forgetting, cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """The section as Markdown."""
    lines = [
        "Backward transfer: what training the task of a row alone changed in the metric of a task.",
        "",
        "| trained | " + " | ".join(figures.spec.tasks) + " |",
        "|---|" + "---|" * len(figures.spec.tasks),
    ]
    for row in tabulate_transfer(figures):
        lines.append(f"| {row.task} | {' | '.join(cell.text for cell in row.cells)} |")
    lines.append(f"| forgettability | {' | '.join(list_forgotten(figures))} |")
    lines += ["", describe_order(figures)]
    lines += [f"* {text}" for text in list_orders(figures, cells)]
    return "\n".join(lines)
