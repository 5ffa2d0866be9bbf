"""Samples and answers of a run as HTML."""

from __future__ import annotations

import pathlib

import numpy as np

from corl_jax.data.image_files import load_image
from corl_jax.demo.rendering import render
from corl_jax.demo.transcripts import make_transcripts
from corl_jax.demo.watching import Run, list_sheets
from corl_jax.engine.completions import group_samples, read_completions

PREFIX = "step "
MOST_GROUPS = 8
"""Groups of a task that are shown; a step at full size has more than fit on a page."""


def list_steps(run: Run) -> list[str]:
    """What the page offers, the last step first: steps with completions, or else sample sheets."""
    return [f"{PREFIX}{step}" for step in run.completion_steps] or list(run.sheets)


def render_step(folder: pathlib.Path, choice: str | None) -> str:
    """The samples of a step.

    Args:
      folder: the work directory.
      choice: of ``list_steps``, None where there is none.

    Raises:
      UserError: a file is missing or damaged.
    """
    if choice is None:
        return render("no_samples.html")
    number = choice.removeprefix(PREFIX)
    if number.isdigit():
        samples = read_completions(folder, int(number))
        return render(
            "samples.html",
            pictures=group_samples(samples, "image"),
            answers=group_samples(samples, "text"),
            most=MOST_GROUPS,
        )

    sheets = list_sheets(folder)
    if choice not in sheets:
        return render("no_samples.html")
    pixels: np.ndarray = load_image(sheets[choice])
    return render("sheet.html", caption=choice, pixels=pixels)


def render_transcripts(run: Run) -> str:
    """Questions of the evaluation with the answers before and after the run.

    Raises:
      UserError: a picture of a file is damaged.
    """
    questions = make_transcripts(run.transcripts) if run.transcripts else []
    return render("transcripts.html", questions=questions)
