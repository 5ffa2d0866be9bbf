"""Inputs and outputs that several tabs of the page share."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from corl_jax.demo.drawing import MOST_PICTURES
from corl_jax.demo.rendering import hint

LARGEST_SEED = 2**32 - 1
DEVICE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "device"}
"""Requests to policies wait for each other, those of all tabs and visitors."""
FILES: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "files"}
"""Reading a run does not wait for them. Matplotlib draws one figure at a time."""

# Buttons of pictures are in HTML; they download what is beside them, or ask about a picture.
PICTURE_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.ask) { trigger('ask', {index: Number(button.dataset.ask)}); return; }
  if (!button.dataset.download) return;
  const link = document.createElement('a');
  link.href = button.closest('figure, .sheet').querySelector('img').src;
  link.download = button.dataset.download;
  document.body.append(link); link.click(); link.remove();
});
"""
STATUS_SCRIPT = "element.setAttribute('role', 'status');"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Inputs of sampling pictures."""

    prompt: gr.Textbox
    samples: gr.Slider
    guidance: gr.Slider
    temperature: gr.Slider
    seed: gr.Number

    def inputs(self) -> list[Any]:
        """In the order of the fields of ``DrawRequest``."""
        return [self.prompt, self.samples, self.guidance, self.temperature, self.seed]


@dataclasses.dataclass(frozen=True)
class Asking:
    """Inputs of asking about a picture."""

    picture: gr.Image
    question: gr.Textbox
    temperature: gr.Slider
    seed: gr.Number
    max_tokens: gr.Slider

    def inputs(self) -> list[Any]:
        """The picture, and then in the order of the fields of ``Question``."""
        return [self.picture, self.question, self.temperature, self.seed, self.max_tokens]


def add_sampling(prompts: list[str], is_open: bool) -> Sampling:
    """Adds the inputs of sampling pictures; ``is_open`` shows the settings from the start."""
    prompt = gr.Textbox(label="Prompt", value=prompts[0] if prompts else "", max_lines=3)
    if prompts:
        gr.Examples(prompts, prompt, label="Examples")
    with gr.Accordion("Settings", open=is_open):
        with gr.Row():
            samples = add_slider("Pictures", 1, MOST_PICTURES, 4, 1, f"at most {MOST_PICTURES}")
            seed = add_seed("the same seed, the same pictures")
        with gr.Row():
            guidance = add_slider("Guidance scale", 1, 10, 2, 0.5, "1 is none")
            temperature = add_slider("Temperature", 0, 2, 1, 0.1, "0 is greedy")
    return Sampling(prompt, samples, guidance, temperature, seed)


def add_asking(questions: list[str], is_open: bool) -> Asking:
    """Adds the inputs of asking about a picture, as ``add_sampling``."""
    picture = add_upload()
    question = gr.Textbox(
        label="Question", value=questions[0] if questions else "", lines=2, max_lines=6
    )
    if questions:
        gr.Examples(questions, question, label="Examples")
    with gr.Accordion("Settings", open=is_open), gr.Row():
        temperature = add_slider("Temperature", 0, 2, 0, 0.1, "0 is greedy")
        seed = add_seed("has no effect when greedy")
        max_tokens = add_slider("Longest answer", 16, 512, 64, 16, "in tokens")
    return Asking(picture, question, temperature, seed, max_tokens)


def add_upload() -> gr.Image:
    """Adds the input of a picture, whose value is the path of the file as it was uploaded."""
    picture = gr.Image(
        label="Picture",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        image_mode=None,
        height=240,
        elem_classes="picture-input",
    )
    # Gradio would raise an error of its own over a damaged file, and turn pictures differently
    # than ``load_image``. A class of our own is no way: Gradio writes a stub file beside it.
    picture.preprocess = _uploaded_path  # type: ignore[method-assign]
    return picture


def _uploaded_path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def add_slider(
    label: str, low: float, high: float, value: float, step: float, info: str
) -> gr.Slider:
    """Adds a slider with a number beside it."""
    return gr.Slider(low, high, value, step=step, label=label, info=info, min_width=200, buttons=[])


def add_seed(info: str) -> gr.Number:
    """Adds the input of a seed."""
    return gr.Number(
        0, label="Seed", info=info, precision=0, minimum=0, maximum=LARGEST_SEED, min_width=200
    )


def add_status(text: str = "") -> gr.HTML:
    """Adds the place where the page says what it does, which screen readers read out."""
    return gr.HTML(hint(text) if text else "", elem_classes="status", js_on_load=STATUS_SCRIPT)


def add_pictures() -> gr.HTML:
    """Adds the place of pictures, whose buttons trigger the event ``ask``."""
    return gr.HTML("", elem_classes="drawn", js_on_load=PICTURE_SCRIPT)
