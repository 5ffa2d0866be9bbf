"""The tab that asks a question about a picture."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image
from corl_jax.demo import controls
from corl_jax.demo.answering import Question, answer
from corl_jax.demo.policies import Policies
from corl_jax.demo.rendering import busy, done, problem, render


def add_ask_tab(policies: Policies, questions: list[str]) -> controls.Asking:
    """Adds the contents of the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            asking = controls.add_asking(questions, is_open=True)
            button = gr.Button("Ask", variant="primary", elem_id="ask")
        with gr.Column(scale=3, min_width=300):
            status = controls.add_status(
                "Upload a picture, or draw one and choose Ask under it. The first answer compiles its "
                f"program, {policies.guess()}."
            )
            answers = gr.HTML("", elem_classes="answers")

    def on_ask(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from ask_on_page(policies, [""], values)

    gr.on(
        [button.click, asking.question.submit],
        on_ask,
        asking.inputs(),
        [status, answers],
        show_progress_on=status,
        api_visibility="private",
        **controls.DEVICE,
    )
    return asking


def ask_on_page(
    policies: Policies, names: list[str], values: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """Status and HTML of answers, first while they are written and then when they are there.

    Args:
      policies: by name.
      names: who answers; "" is the first policy.
      values: the file of the picture, None for none, and then the fields of ``Question``.
    """
    try:
        path, *settings = values
        if path is None:
            raise UserError(
                "the picture must be there; got none. Upload one, or choose Ask under one in Draw"
            )
        picture = _read_upload(path)
        question = Question(*settings)

        started, answers = time.monotonic(), []
        for name in names:
            label = name or policies.first
            if label not in policies.loaded:
                yield busy(f"Loading {label}."), gr.skip()
            program = policies.answering_program(question, name)
            yield busy(f"{label} answers. {policies.wait(program)}"), gr.skip()

            policy = policies.get(name)
            parts = policies.run(program, functools.partial(answer, policy, picture, question))
            answers.append({"policy": label, "question": question, "parts": parts})
    except UserError as error:
        yield problem(error), gr.skip()
        return

    seconds = time.monotonic() - started
    yield done(f"Answered in {seconds:.1f} s."), render("answers.html", answers=answers)


def _read_upload(path: str) -> Any:
    """Pixels of an uploaded file: uint8 ``[H, W, 3]``."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"the picture must be uploaded again ({error.strerror})") from None
    # By its content, so that errors do not name a temporary file.
    return load_image(content)
