"""A sheet of the newest sampled images with prompts and rewards, for people to look at."""

from __future__ import annotations

import numpy as np

from corl_jax.core.types import PromptBatch, Rewards, Rollout
from corl_jax.engine.hooks import Report
from corl_jax.engine.image_grid import image_grid, magnification
from corl_jax.engine.state import TrainState

PROMPTS = 4
"""Prompts on a sheet, the first ones of the step."""


class SampleSheet:
    """Remembers the images of one step."""

    def __init__(self, group_size: int):
        self.group_size = group_size
        self.images: np.ndarray | None = None
        self.labels: list[str] = []
        self.notes: list[str] = []

    def remember(self, prompts: PromptBatch, local_rollout: Rollout, rewards: Rewards) -> None:
        """Keeps the images of the first prompts, labelled with prompt and total reward."""
        pixels = np.asarray(local_rollout.pixels)
        count = PROMPTS * self.group_size
        self.images = pixels.reshape(-1, *pixels.shape[2:])[:count]

        # A prompt has as many images in a row as the batch has columns.
        texts = [record.prompt for record in prompts.records for _ in range(pixels.shape[1])]
        self.labels = texts[:count]
        self.notes = [f"{reward:.2f}" for reward in rewards.total[: len(self.labels)]]
        if local_rollout.is_external is not None:
            is_external = np.ravel(local_rollout.is_external)[:count]
            self.notes = [
                f"{note} real" if real else note
                for note, real in zip(self.notes, is_external, strict=True)
            ]

    def report(self, done: int, state: TrainState) -> Report:
        """The sheet, or nothing before the first step."""
        if self.images is None:
            return Report()
        scale = magnification(self.images.shape[2])
        sheet = image_grid(self.images, self.labels, self.group_size, scale, self.notes)
        return Report({}, {"rollout": sheet})
