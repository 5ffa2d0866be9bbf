"""What the tab of runs shows: all of a run that is chosen, and what is new in one that goes on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from corl_jax.core.errors import UserError
from corl_jax.demo.curves import default_columns, drawable_columns, make_charts
from corl_jax.demo.rendering import problem, render
from corl_jax.demo.run_parts import list_steps, render_step, render_transcripts
from corl_jax.demo.watching import check_run, fingerprint, read_run


@dataclasses.dataclass(frozen=True)
class Widgets:
    """The components of the tab."""

    folder: gr.Dropdown
    status: gr.HTML
    columns: gr.CheckboxGroup
    window: gr.Slider
    charts: gr.HTML
    step: gr.Dropdown
    samples: gr.HTML
    transcripts: gr.HTML
    version: gr.State

    def all(self) -> list[Any]:
        """All of them."""
        return list(vars(self).values())


def choose_run(name: str | None, allowed: Sequence[str] | None) -> pathlib.Path:
    """The work directory ``name``.

    Args:
      name: as it was chosen or typed.
      allowed: names that may be shown, None for all.

    Raises:
      UserError: there is none, or it may not be shown.
    """
    if not name:
        raise UserError("the work directory must be chosen; got none. Train one, or name one")
    if allowed is not None and name not in allowed:
        raise UserError(f"the work directory must be one of those offered; got {name!r}")
    return check_run(name)


def show_run(
    widgets: Widgets, name: str | None, window: int, allowed: Sequence[str] | None
) -> dict[Any, Any]:
    """All outputs for a run that was chosen.

    Args:
      widgets: to fill.
      name: of the work directory.
      window: of the curves' mean.
      allowed: names that may be shown, None for all.
    """
    try:
        folder = choose_run(name, allowed)
    except UserError as error:
        empty = dict.fromkeys((widgets.charts, widgets.samples, widgets.transcripts), "")
        return {widgets.status: problem(error), widgets.version: None, **empty}

    version = fingerprint(folder)
    run = read_run(folder)
    chosen = default_columns(run.rows)
    steps = list_steps(run)
    step = steps[0] if steps else None
    return {
        widgets.status: render("run_status.html", run=run),
        widgets.columns: gr.CheckboxGroup(drawable_columns(run.rows), value=chosen),
        widgets.charts: render("charts.html", charts=make_charts(run.rows, chosen, window)),
        widgets.step: gr.Dropdown(steps, value=step),
        widgets.samples: guarded(lambda: render_step(folder, step)),
        widgets.transcripts: guarded(lambda: render_transcripts(run)),
        widgets.version: (name, version, steps),
    }


def refresh_run(
    widgets: Widgets,
    name: str | None,
    window: int,
    columns: list[str],
    step: str | None,
    version: tuple[str, str, list[str]] | None,
) -> dict[Any, Any]:
    """What has changed since a run was shown; what the visitor chose stays chosen.

    Args:
      widgets: to fill.
      name, window, columns, step: inputs of the page.
      version: name, fingerprint and steps of what is shown, None for nothing.
    """
    # Another name in the input shows nothing until its button is pressed.
    if version is None or version[0] != name:
        return {widgets.status: gr.skip()}
    try:
        folder = check_run(name)
    except UserError as error:
        return {widgets.status: problem(error)}
    run = read_run(folder)
    outputs: dict[Any, Any] = {widgets.status: render("run_status.html", run=run)}
    new = fingerprint(folder)
    if new == version[1]:
        return outputs

    # Whoever looks at the last step follows the run.
    steps = list_steps(run)
    if steps != version[2]:
        follows = not version[2] or step == version[2][0] or step not in steps
        step = (steps[0] if steps else None) if follows else step
        outputs |= {
            widgets.step: gr.Dropdown(steps, value=step),
            widgets.samples: guarded(lambda: render_step(folder, step)),
            widgets.transcripts: guarded(lambda: render_transcripts(run)),
        }
    # A run that had no rows yet gets its curves with the first ones.
    chosen = columns or default_columns(run.rows)
    available = drawable_columns(run.rows)
    charts = make_charts(run.rows, chosen, window)
    return outputs | {
        widgets.columns: gr.CheckboxGroup(available, value=[c for c in chosen if c in available]),
        widgets.charts: render("charts.html", charts=charts),
        widgets.version: (name, new, steps),
    }


def render_charts(folder: pathlib.Path, columns: list[str], window: int) -> str:
    """The curves of some columns."""
    run = read_run(folder)
    return render("charts.html", charts=make_charts(run.rows, columns, window))


def guarded(show: Callable[[], str]) -> str:
    """HTML of ``show``, or the sentence about what it cannot read."""
    try:
        return show()
    except UserError as error:
        return problem(error)
