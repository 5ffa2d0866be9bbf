"""Records of the embedded world, each a pure function of its split and index."""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal

import numpy as np

from corl_jax.core.types import Record
from corl_jax.data.shapes.captions import canonical_caption, sample_caption
from corl_jax.data.shapes.questions import sample_question
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import Scene, sample_scene

Split = Literal["train", "test"]

SEED = 20260
"""Seed of the data set that configs use; another seed gives another data set."""
TEST_SHARE = 0.1
"""Share of the canonical captions that belong to the test split."""


def split_of(caption: str) -> Split:
    """The split of a canonical caption, and so of every scene that it describes."""
    # A hash and not ``hash()``, which differs between Python processes.
    hash_bytes = hashlib.sha256(caption.encode()).digest()[:8]
    uniform = int.from_bytes(hash_bytes, "big") / 2**64
    return "test" if uniform < TEST_SHARE else "train"


def example_scene(split: Split, index: int, seed: int = SEED) -> tuple[Scene, np.random.Generator]:
    """The scene of one example, and the generator from which its caption and question come next."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])

    # Scenes of the other split are rejected, so the splits share no canonical caption.
    scene = sample_scene(rng)
    while split_of(canonical_caption(scene)) != split:
        scene = sample_scene(rng)
    return scene, rng


def example(split: Split, index: int, seed: int = SEED) -> Record:
    """One record: a caption and a question, both true of its image."""
    scene, rng = example_scene(split, index, seed)

    # The caption is sampled before the question; the order is part of the data set.
    prompt = sample_caption(scene, rng)
    question = sample_question(scene, rng)
    return Record(
        id=f"shapes-{split}-{index:06d}",
        prompt=prompt,
        image=render(scene),
        question=question.text,
        answer=question.answer,
        qa_type=question.qa_type,
        choices=question.choices,
        kind=question.kind,
    )
