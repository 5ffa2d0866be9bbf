"""The tab that draws pictures of a prompt."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.files import slug
from corl_jax.demo import controls
from corl_jax.demo.drawing import DrawRequest, draw, make_set
from corl_jax.demo.policies import Policies
from corl_jax.demo.rendering import busy, done, problem, render


@dataclasses.dataclass(frozen=True)
class DrawTab:
    """What other tabs need of it.

    Attributes:
      pictures: their place, with the event ``ask``.
      drawn: arrays of its pictures, by index.
    """

    pictures: gr.HTML
    drawn: gr.State


def add_draw_tab(policies: Policies, prompts: list[str]) -> DrawTab:
    """Adds the contents of the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            sampling = controls.add_sampling(prompts, is_open=True)
            button = gr.Button("Draw", variant="primary", elem_id="draw")
        with gr.Column(scale=3, min_width=300):
            status = controls.add_status(
                f"The first picture compiles its program, {policies.guess()}."
            )
            pictures = controls.add_pictures()
    drawn = gr.State([])

    def on_draw(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from draw_on_page(policies, [""], values)

    gr.on(
        [button.click, sampling.prompt.submit],
        on_draw,
        sampling.inputs(),
        [status, pictures, drawn],
        show_progress_on=status,
        api_visibility="private",
        **controls.DEVICE,
    )
    return DrawTab(pictures, drawn)


def draw_on_page(
    policies: Policies, names: list[str], values: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """Status, HTML of pictures and arrays, first while drawing and then when it is done.

    Args:
      policies: by name.
      names: who draws, from the same noise; "" is the first policy.
      values: in the order of the fields of ``DrawRequest``.
    """
    try:
        request = DrawRequest(*values)
        started, sets = time.monotonic(), []
        drawn: list[np.ndarray] = []
        for name in names:
            label = name or policies.first
            if label not in policies.loaded:
                yield busy(f"Loading {label}."), gr.skip(), gr.skip()
            program = policies.drawing_program(request, name)
            yield busy(f"{label} draws. {policies.wait(program)}"), gr.skip(), gr.skip()

            policy = policies.get(name)
            images = policies.run(program, functools.partial(draw, policy, request))
            # Where several draw, their names tell the pictures and the files apart.
            is_alone = len(names) == 1
            title = "Pictures" if is_alone else label
            prefix = "" if is_alone else f"{slug(label)}-"
            sets.append(make_set(images, request, title, prefix, first=len(drawn)))
            drawn += list(images)
    except UserError as error:
        yield problem(error), gr.skip(), gr.skip()
        return

    number = f"{len(drawn)} pictures" if len(drawn) > 1 else "A picture"
    text = f"{number} in {time.monotonic() - started:.1f} s."
    yield done(text), render("pictures.html", sets=sets), drawn
