"""The tab that watches a run: curves, samples by step, answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from corl_jax.demo import controls
from corl_jax.demo.run_parts import render_step
from corl_jax.demo.watch_outputs import (
    Widgets,
    choose_run,
    guarded,
    refresh_run,
    render_charts,
    show_run,
)

REFRESH_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class WatchTab:
    """What the page needs of it: the function that shows a run, with its inputs and outputs."""

    folder: gr.Dropdown
    show: Callable[..., dict[Any, Any]]
    inputs: list[Any]
    outputs: list[Any]


def add_watch_tab(run: str, offered: Sequence[str], is_local: bool) -> WatchTab:
    """Adds the contents of the tab.

    Args:
      run: work directory to begin with, "" for none.
      offered: work directories to choose from.
      is_local: whether another folder may be typed; not where others reach this machine.
    """
    choices = list(dict.fromkeys([*([run] if run else []), *offered]))
    with gr.Row(elem_classes="run-choice"):
        folder = gr.Dropdown(
            choices,
            value=run or (choices[0] if choices else None),
            allow_custom_value=is_local,
            label="Work directory",
            info="folders in runs/, or the path of another one" if is_local else "folders in runs/",
            scale=4,
            min_width=240,
            elem_id="run",
        )
        button = gr.Button("Show", variant="primary", scale=1, min_width=90, elem_id="show")
    refresh = gr.Checkbox(False, label=f"Refresh every {REFRESH_SECONDS} s", elem_id="refresh")
    widgets = _add_widgets(folder)
    timer = gr.Timer(REFRESH_SECONDS, active=False)
    allowed = None if is_local else choices

    def show(name: str | None, window: int) -> dict[Any, Any]:
        return show_run(widgets, name, window, allowed)

    def tick(name: str | None, window: int, columns: list[str], step: str, version: Any) -> dict:
        return refresh_run(widgets, name, window, columns, step, version)

    def on_columns(name: str | None, window: int, columns: list[str]) -> str:
        return guarded(lambda: render_charts(choose_run(name, allowed), columns, window))

    def on_step(name: str | None, step: str) -> str:
        return guarded(lambda: render_step(choose_run(name, allowed), step))

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
    state = [*inputs, widgets.columns, widgets.step, widgets.version]
    timer.tick(tick, state, widgets.all(), **quiet)
    return WatchTab(folder, show, inputs, widgets.all())


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
