"""The tab that puts two policies side by side: the same prompt and seed, the same question."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from corl_jax.core.errors import UserError
from corl_jax.demo import controls
from corl_jax.demo.ask_tab import ask_on_page
from corl_jax.demo.draw_tab import draw_on_page
from corl_jax.demo.examples import prompt_examples, question_examples
from corl_jax.demo.policies import Policies
from corl_jax.demo.rendering import problem


@dataclasses.dataclass(frozen=True)
class CompareTab:
    """What the page joins: the place of pictures with its event, their arrays, the picture input."""

    pictures: gr.HTML
    drawn: gr.State
    asking: controls.Asking


def add_compare_tab(policies: Policies, second: str, offered: list[str], typed: bool) -> CompareTab:
    """Adds the contents of the tab.

    Args:
      policies: the first of them is compared.
      second: the other one, "" to choose it on the page.
      offered: names to choose from.
      typed: whether another name may be typed.
    """
    tokenizer = policies.get().tokenizer
    names = sorted({*offered, *([second] if second else [])})
    allowed = None if typed else names
    name = gr.Dropdown(
        names,
        value=second or None,
        allow_custom_value=typed,
        label=f"Compare {policies.first} with",
        info="a work directory, a Hugging Face folder or tiny",
        elem_id="second",
    )
    gr.HTML("<h2>Pictures</h2>")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            sampling = controls.add_sampling(prompt_examples(tokenizer), is_open=False)
            draw_button = gr.Button("Draw with both", variant="primary", elem_id="draw-both")
        with gr.Column(scale=3, min_width=300):
            draw_status = controls.add_status("Both draw the same prompt from the same seed.")
            pictures = controls.add_pictures()
    gr.HTML("<h2>Answers</h2>")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            asking = controls.add_asking(question_examples(tokenizer), is_open=False)
            ask_button = gr.Button("Ask both", variant="primary", elem_id="ask-both")
        with gr.Column(scale=3, min_width=300):
            ask_status = controls.add_status(
                "Both answer the same question about the same picture: upload one, or choose Ask "
                "under one above."
            )
            answers = gr.HTML("", elem_classes="answers")
    drawn = gr.State([])

    def on_draw(other: str | None, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            names = ["", check_second(policies, other, allowed)]
        except UserError as error:
            yield problem(error), gr.skip(), gr.skip()
            return
        yield from draw_on_page(policies, names, values)

    def on_ask(other: str | None, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            names = ["", check_second(policies, other, allowed)]
        except UserError as error:
            yield problem(error), gr.skip()
            return
        yield from ask_on_page(policies, names, values)

    for trigger, action, inputs, outputs in (
        (draw_button.click, on_draw, sampling.inputs(), [draw_status, pictures, drawn]),
        (ask_button.click, on_ask, asking.inputs(), [ask_status, answers]),
    ):
        trigger(
            action,
            [name, *inputs],
            outputs,
            show_progress_on=outputs[0],
            api_visibility="private",
            **controls.DEVICE,
        )
    return CompareTab(pictures, drawn, asking)


def check_second(policies: Policies, name: str | None, allowed: Sequence[str] | None = None) -> str:
    """The name of the other policy.

    Args:
      policies: the first of them is compared.
      name: as it was chosen or typed.
      allowed: names that may be loaded, None for all.

    Raises:
      UserError: it is missing, is the first policy itself, or may not be loaded.
    """
    text = (name or "").strip()
    if not text or text == policies.first:
        raise UserError(
            f"the other policy must be another one than {policies.first}; got "
            f"{repr(text) if text else 'none'}. Name a work directory or a Hugging Face folder"
        )
    if allowed is not None and text not in allowed:
        raise UserError(f"the other policy must be one of those offered; got {text!r}")
    return text
