"""The page itself: four tabs, and what leads from one to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gradio as gr
import jax
import numpy as np

from corl_jax.demo.ask_tab import add_ask_tab
from corl_jax.demo.compare_tab import add_compare_tab
from corl_jax.demo.draw_tab import add_draw_tab
from corl_jax.demo.examples import prompt_examples, question_examples
from corl_jax.demo.policies import Policies
from corl_jax.demo.rendering import render
from corl_jax.demo.style import CSS, FONTS, MONO_FONTS
from corl_jax.demo.watch_tab import add_watch_tab

TITLE = "corl_jax demo"


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """What the command line says about the page.

    Attributes:
      second: policy to compare with, "" for none.
      run: work directory to watch, "" for none.
      runs: work directories to choose from.
      typed: whether other folders of this machine may be typed: only where nobody else reaches it.
    """

    second: str = ""
    run: str = ""
    runs: Sequence[str] = ()
    typed: bool = True


def make_page(policies: Policies, config: PageConfig) -> gr.Blocks:
    """The page, which ``server.serve`` serves with ``make_look``."""
    policy = policies.get()
    prompts = prompt_examples(policy.tokenizer)
    questions = question_examples(policy.tokenizer)
    offered = [name for name in ("tiny", *config.runs) if name != policies.first]

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(policies))
        with gr.Tabs(selected="watch" if config.run else "draw", overflow_behavior="wrap") as tabs:
            with gr.Tab("Draw", id="draw"):
                drawing = add_draw_tab(policies, prompts)
            with gr.Tab("Ask", id="ask"):
                asking = add_ask_tab(policies, questions)
            with gr.Tab("Watch", id="watch"):
                watching = add_watch_tab(config.run, config.runs, config.typed)
            with gr.Tab("Compare", id="compare"):
                comparing = add_compare_tab(policies, config.second, offered, config.typed)

        # A picture that was drawn becomes the one that is asked about.
        def take_drawn(images: list[np.ndarray], event: gr.EventData) -> tuple[Any, Any]:
            return images[event.index], gr.Tabs(selected="ask")

        def take_compared(images: list[np.ndarray], event: gr.EventData) -> np.ndarray:
            return images[event.index]

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        drawing.pictures.ask(take_drawn, drawing.drawn, [asking.picture, tabs], **quiet)
        comparing.pictures.ask(take_compared, comparing.drawn, comparing.asking.picture, **quiet)
        if config.run:
            page.load(watching.show, watching.inputs, watching.outputs, **quiet)

    return page.queue(api_open=False)


def make_look() -> dict[str, Any]:
    """Theme and style for ``server.serve``: fonts of the system, nothing from a network."""
    theme = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        font=FONTS,
        font_mono=MONO_FONTS,
        radius_size="lg",
    ).set(
        # Gradio's own grey is too light to read for many.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )
    return {"theme": theme, "css": CSS}


def _header(policies: Policies) -> str:
    policy = policies.get()
    size = sum(param.size for param in policy.params.values())
    return render(
        "header.html",
        name=policies.first,
        size=f"{size / 1e9:.2f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million",
        side=policy.cfg.image_size,
        device=jax.local_devices()[0].device_kind,
    )
