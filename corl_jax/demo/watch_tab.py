"""The tab that watches a run: curves, samples by step, answers."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from corl_jax.core.errors import UserError
from corl_jax.demo import controls
from corl_jax.demo.curves import default_columns, drawable_columns, make_charts
from corl_jax.demo.rendering import problem, render
from corl_jax.demo.run_parts import list_steps, render_step, render_transcripts
from corl_jax.demo.watching import Run, check_run, fingerprint, read_run

REFRESH_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class WatchTab:
    """What the page needs of it: the function that shows a run, with its inputs and outputs."""

    show: Callable[..., dict[Any, Any]]
    inputs: list[Any]
    outputs: list[Any]


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
    seen: gr.State

    def all(self) -> list[Any]:
        """All of them."""
        return list(vars(self).values())


def add_watch_tab(run: str, offered: Sequence[str], typed: bool) -> WatchTab:
    """Adds the contents of the tab.

    Args:
      run: work directory to begin with, "" for none.
      offered: work directories to choose from.
      typed: whether another folder may be typed; not where others reach this machine.
    """
    choices = list(dict.fromkeys([*([run] if run else []), *offered]))
    with gr.Row(elem_classes="run-choice"):
        folder = gr.Dropdown(
            choices,
            value=run or (choices[0] if choices else None),
            allow_custom_value=typed,
            label="Work directory",
            info="folders in runs/, or the path of another one" if typed else "folders in runs/",
            scale=4,
            min_width=240,
            elem_id="run",
        )
        button = gr.Button("Show", variant="primary", scale=1, min_width=90, elem_id="show")
    refresh = gr.Checkbox(False, label=f"Refresh every {REFRESH_SECONDS} s", elem_id="refresh")
    widgets = _add_widgets(folder)
    timer = gr.Timer(REFRESH_SECONDS, active=False)

    def show(name: str | None, window: int) -> dict[Any, Any]:
        return show_run(widgets, name, window, None if typed else choices)

    def tick(name: str | None, window: int, columns: list[str], step: str, seen: Any) -> dict:
        return refresh_run(widgets, name, window, columns, step, seen)

    def on_columns(name: str | None, window: int, columns: list[str]) -> str:
        return _guarded(lambda: _render_charts(check_run(name or ""), columns, window))

    def on_step(name: str | None, step: str) -> str:
        return _guarded(lambda: render_step(check_run(name or ""), step))

    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        **controls.FILES,
    }
    options = {**quiet, "show_progress": "minimal"}
    inputs = [folder, widgets.window]
    gr.on([button.click, folder.input], show, inputs, widgets.all(), **options)
    for trigger in (widgets.columns.input, widgets.window.release):
        trigger(on_columns, [*inputs, widgets.columns], widgets.charts, **quiet)
    widgets.step.input(on_step, [folder, widgets.step], widgets.samples, **quiet)

    refresh.change(lambda on: gr.Timer(active=on), refresh, timer, queue=False)
    state = [*inputs, widgets.columns, widgets.step, widgets.seen]
    timer.tick(tick, state, widgets.all(), **quiet)
    return WatchTab(show, inputs, widgets.all())


def _add_widgets(folder: gr.Dropdown) -> Widgets:
    """The outputs of the tab, from top to bottom."""
    status = controls.add_status()
    with gr.Accordion("Choose curves", open=False):
        columns = gr.CheckboxGroup([], label="Columns of metrics.jsonl", elem_id="columns")
        window = gr.Slider(1, 50, 5, step=1, label="Smoothing", info="mean over so many steps")
    charts = gr.HTML("", elem_classes="watched")
    gr.HTML("<h2>Samples</h2>")
    step = gr.Dropdown([], label="Step", elem_id="step")
    samples = gr.HTML("", elem_classes="watched", elem_id="samples")
    with gr.Accordion("Answers of the evaluation, before and after", open=False):
        transcripts = gr.HTML("", elem_classes="watched")
    return Widgets(
        folder, status, columns, window, charts, step, samples, transcripts, gr.State(None)
    )


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
        if not name:
            raise UserError("the work directory must be chosen; got none. Train one, or name one")
        if allowed is not None and name not in allowed:
            raise UserError(f"the work directory must be one of those offered; got {name!r}")
        folder = check_run(name)
    except UserError as error:
        empty = dict.fromkeys((widgets.charts, widgets.samples, widgets.transcripts), "")
        return {widgets.status: problem(error), widgets.seen: None, **empty}

    seen = fingerprint(folder)
    run = read_run(folder)
    chosen = default_columns(run.rows)
    steps = list_steps(run)
    step = steps[0] if steps else None
    return {
        widgets.status: render("run_status.html", run=run),
        widgets.columns: gr.CheckboxGroup(drawable_columns(run.rows), value=chosen),
        widgets.charts: render("charts.html", charts=make_charts(run.rows, chosen, window)),
        widgets.step: gr.Dropdown(steps, value=step),
        widgets.samples: _guarded(lambda: render_step(folder, step)),
        widgets.transcripts: _guarded(lambda: render_transcripts(run)),
        widgets.seen: (name, seen, steps),
    }


def refresh_run(
    widgets: Widgets,
    name: str | None,
    window: int,
    columns: list[str],
    step: str | None,
    seen: tuple[str, str, list[str]] | None,
) -> dict[Any, Any]:
    """What has changed since a run was shown; what the visitor chose stays chosen.

    Args:
      widgets: to fill.
      name, window, columns, step: inputs of the page.
      seen: name, fingerprint and steps of what is shown, None for nothing.
    """
    # Another name in the input shows nothing until its button is pressed.
    if seen is None or seen[0] != name:
        return {widgets.status: gr.skip()}
    try:
        folder = check_run(name)
    except UserError as error:
        return {widgets.status: problem(error)}
    run = read_run(folder)
    outputs: dict[Any, Any] = {widgets.status: render("run_status.html", run=run)}
    new = fingerprint(folder)
    if new == seen[1]:
        return outputs

    # Whoever looks at the last step follows the run.
    steps = list_steps(run)
    if steps != seen[2]:
        follows = not seen[2] or step == seen[2][0] or step not in steps
        step = (steps[0] if steps else None) if follows else step
        outputs |= {
            widgets.step: gr.Dropdown(steps, value=step),
            widgets.samples: _guarded(lambda: render_step(folder, step)),
            widgets.transcripts: _guarded(lambda: render_transcripts(run)),
        }
    # A run that had no rows yet gets its curves with the first ones.
    chosen = columns or default_columns(run.rows)
    available = drawable_columns(run.rows)
    charts = make_charts(run.rows, chosen, window)
    return outputs | {
        widgets.columns: gr.CheckboxGroup(available, value=[c for c in chosen if c in available]),
        widgets.charts: render("charts.html", charts=charts),
        widgets.seen: (name, new, steps),
    }


def _render_charts(folder: pathlib.Path, columns: list[str], window: int) -> str:
    run: Run = read_run(folder)
    return render("charts.html", charts=make_charts(run.rows, columns, window))


def _guarded(show: Callable[[], str]) -> str:
    """HTML of ``show``, or the sentence about what it cannot read."""
    try:
        return show()
    except UserError as error:
        return problem(error)
