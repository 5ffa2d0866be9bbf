"""Records of the embedded world, each a pure function of its place. In: split and index; out: a ``Record``."""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal

import numpy as np

from corl_jax.core.types import Record
from corl_jax.data.shapes.captions import caption, describe
from corl_jax.data.shapes.questions import ask_question
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import Scene, sample_scene

Split = Literal["train", "test"]

SEED = 20260
"""Of the published data set; another seed is another data set."""
TEST_SHARE = 0.1
"""Share of the canonical descriptions that are kept for the test split."""


def split_of(description: str) -> Split:
    """The split that owns a canonical description (``captions.describe``), and with it every scene so described."""
    value = int.from_bytes(hashlib.sha256(description.encode()).digest()[:8], "big") / 2**64
    return "test" if value < TEST_SHARE else "train"


def example_scene(split: Split, index: int, seed: int = SEED) -> tuple[Scene, np.random.Generator]:
    """The scene of one example, and the generator in the state in which its caption and question are drawn."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    scene = sample_scene(rng)
    while split_of(describe(scene)) != split:
        scene = sample_scene(rng)
    return scene, rng


def example(split: Split, index: int, seed: int = SEED) -> Record:
    """One record: a caption and a question that are both true of its picture."""
    scene, rng = example_scene(split, index, seed)
    prompt = caption(scene, rng)
    asked = ask_question(scene, rng)
    return Record(
        id=f"shapes-{split}-{index:06d}",
        prompt=prompt,
        image=render(scene),
        question=asked.text,
        answer=asked.answer,
        qa_type=asked.qa_type,
        choices=asked.choices,
        kind=asked.kind,
    )
