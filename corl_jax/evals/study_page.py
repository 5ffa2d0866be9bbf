"""A study on one page, ``study.html``: table, plots, every command. In: cells; out: static HTML without scripts."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from corl_jax.evals.charts import INK, OTHERS
from corl_jax.evals.report_style import CSS
from corl_jax.evals.study import Cell, Job, Study, cell_text


def page(name: str, study: Study, cells: Mapping[str, Mapping[str, Cell]], ran: Sequence[Job], about: str) -> str:
    """The page as text; ``about`` names machine, versions and date."""
    head = "".join(f"<th>{escape(metric)}</th>" for metric in study.metrics)
    body = "".join(
        f"<tr><th>{escape(arm)}</th>"
        + "".join(f"<td>{cell_text(row[metric])}</td>" for metric in study.metrics)
        + "</tr>"
        for arm, row in cells.items()
    )
    plots = "".join(f'<div class="card">{plot(metric, cells)}</div>' for metric in study.metrics)
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


def plot(metric: str, cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """One metric of all arms as an SVG element: mean, standard error, and a point per seed."""
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": metric, "font.size": 9.5, "text.color": INK}
    settings |= {f"{part}.color": INK for part in ("xtick", "ytick")} | {"axes.edgecolor": INK}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6, 0.9 + 0.34 * len(cells)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(title=metric)
        for place, row in enumerate(cells.values()):
            cell, colour = row[metric], OTHERS[place % len(OTHERS)]
            axes.plot(100 * cell.mean, place, "o", color=colour, markersize=7)
            if cell.stderr is not None:
                ends = [100 * (cell.mean - cell.stderr), 100 * (cell.mean + cell.stderr)]
                axes.plot(ends, [place, place], color=colour, linewidth=2)
            axes.plot([100 * value for value in cell.values], [place] * len(cell.values), "|", color=INK, alpha=0.6)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.invert_yaxis()
        axes.grid(True, axis="x", color=INK, alpha=0.13, linewidth=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
