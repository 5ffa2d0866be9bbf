"""A few images and answers of a policy for people to look at, always of the same held-out records.

A ``Gallery`` becomes up to three files in a folder: ``gallery_NAME.png`` and ``gallery_NAME.json``,
and ``answers_NAME.json``. Images inside the JSON files are PNG in base64.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from corl_jax.core.files import write_atomically
from corl_jax.core.types import Completion, Record
from corl_jax.data.records import image_of
from corl_jax.engine.grid_files import png_bytes
from corl_jax.engine.image_grid import image_grid, magnification
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.generation import STRICT_REWARD, generate_all
from corl_jax.evals.reward_scores import TaskScores, records_to_ask, records_to_draw
from corl_jax.evals.understanding import answer_all, grade_answers
from corl_jax.rewards.base import RewardContext, compute_rewards

PROMPTS, QUESTIONS = 8, 12
LARGEST_SIDE = 256
"""Most pixels of a side of an image in a JSON file; a larger image is scaled down."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Samples of one policy.

    Attributes:
      guidance_scale: that the images were sampled with.
      samples: images per prompt, ``G``.
      images: ``B * G`` completions, prompt by prompt.
      correct: ``[B * G]``, whether an image shows exactly what its caption names; None where nothing
        can say so.
      rewards: ``[B * G]``, total reward of an image; None where ``correct`` is known.
      greedy: one answer per question, at temperature 0.
      sampled: one answer per question, at temperature 1.
    """

    guidance_scale: float
    samples: int
    images: tuple[Completion, ...]
    correct: Bool[np.ndarray, " N"] | None
    rewards: Float[np.ndarray, " N"] | None
    greedy: tuple[Completion, ...]
    sampled: tuple[Completion, ...]


def make_gallery(
    policy: EvalPolicy,
    records: Sequence[Record],
    sampling: EvalSampling,
    *,
    guidance_scale: float,
    samples: int = 4,
    scores: TaskScores | None = None,
) -> Gallery:
    """Samples images of eight captions and answers to twelve questions, as far as records have them.

    Args:
      policy: what generates and answers.
      records: held out from training, in a fixed order. The first different captions are used, and
        questions of every kind in turns.
      sampling: of an evaluation of the same records. The gallery runs its programs, and an answer
        and the first image of a caption are those that were measured.
      guidance_scale: of classifier-free guidance.
      samples: images per caption.
      scores: of an evaluation by rewards; None for records of the embedded world.
    """
    drawn, asked = records, records
    if scores is not None:
        drawn, asked = records_to_draw(records, scores), records_to_ask(records)

    # One record per caption: of records with the same caption the first one is kept.
    place_of_caption = {drawn[place].prompt: place for place in range(len(drawn))[::-1]}
    captions = sorted(place_of_caption.values())[:PROMPTS]
    images = greedy = sampled = []
    if captions:
        images = generate_all(policy, drawn, guidance_scale, sampling, samples, captions)

    # Turns by kind, so that twelve questions show as many kinds as possible.
    if questions := interleave_kinds(asked)[:QUESTIONS]:
        greedy = answer_all(policy, asked, 0.0, sampling, questions)
        sampled = answer_all(policy, asked, 1.0, sampling, questions)

    correct = rewards = None
    if scores is None:
        # The strict reward is 0 or 1.
        correct = compute_rewards(images, {STRICT_REWARD: 1.0}, RewardContext()).total > 0.5
    elif images:
        rewards = scores["image"](images).total
    answers = tuple(greedy), tuple(sampled)
    return Gallery(guidance_scale, samples, tuple(images), correct, rewards, *answers)


def interleave_kinds(records: Sequence[Record]) -> list[int]:
    """Places of the first record of every kind of question, of the second of every kind, and so on."""
    # Kinds in alphabetical order, so that the order of the records decides within a kind alone.
    by_kind: dict[str, list[int]] = collections.defaultdict(list)
    for place, record in enumerate(records):
        by_kind[record.kind].append(place)
    rounds = itertools.zip_longest(*(by_kind[kind] for kind in sorted(by_kind)))
    # Kinds with fewer records leave None in the later rounds.
    return [place for same_round in rounds for place in same_round if place is not None]


def write_gallery(folder: pathlib.Path, name: str, gallery: Gallery) -> None:
    """Writes the files of ``gallery`` into ``folder`` and replaces older ones.

    Without images or without answers their files are not written.

    Args:
      folder: it must exist.
      name: part of the file names: ``before`` or ``after``.
      gallery: what to write.
    """
    parts: dict[str, object] = {}
    if gallery.images:
        write_atomically(folder / f"gallery_{name}.png", _sheet(gallery))
        parts["gallery"] = {"guidance": gallery.guidance_scale, "prompts": image_entries(gallery)}
    if gallery.greedy:
        parts["answers"] = answer_entries(gallery)

    # The same as data, for the report.
    for part, value in parts.items():
        text = json.dumps(value, indent=1, ensure_ascii=False)
        write_atomically(folder / f"{part}_{name}.json", text + "\n")


def _sheet(gallery: Gallery) -> bytes:
    """One PNG with caption and reward or verdict under every image, two prompts per row."""
    pixels = np.stack(
        [completion.pixels for completion in gallery.images if completion.pixels is not None]
    )
    captions = [completion.record.prompt for completion in gallery.images]
    if gallery.rewards is not None:
        notes = [f"{reward:.2f}" for reward in gallery.rewards]
    elif gallery.correct is not None:
        notes = ["right" if correct else "wrong" for correct in gallery.correct]
    else:
        notes = []
    scale = magnification(pixels.shape[2])
    return png_bytes(image_grid(pixels, captions, gallery.samples * 2, scale, notes))


def image_entries(gallery: Gallery) -> list[dict[str, Any]]:
    """Prompts with their images and whether each is correct, or its reward, as JSON values."""
    entries = []
    # Completions come prompt by prompt: every `samples` of them share a record.
    for start in range(0, len(gallery.images), gallery.samples):
        group = gallery.images[start : start + gallery.samples]
        pictures: list[dict[str, Any]] = []
        for row, completion in enumerate(group, start):
            picture: dict[str, Any] = {"png": png_base64(completion.pixels)}
            if gallery.correct is not None:
                picture["right"] = bool(gallery.correct[row])
            if gallery.rewards is not None:
                picture["reward"] = float(gallery.rewards[row])
            pictures.append(picture)
        record = group[0].record
        entries.append({"id": record.id, "prompt": record.prompt, "pictures": pictures})
    return entries


def answer_entries(gallery: Gallery) -> list[dict[str, Any]]:
    """Questions with the reference answer and the answers of the policy, as JSON values."""
    # Greedy and sampled answers are of the same records, in the same order.
    greedy_entries = _graded_entries(gallery.greedy)
    sampled_entries = _graded_entries(gallery.sampled)

    return [
        {
            "id": completion.record.id,
            "question": completion.record.question,
            "reference": completion.record.answer,
            "qa_type": completion.record.qa_type,
            "choices": list(completion.record.choices),
            "kind": completion.record.kind,
            "png": png_base64(image_of(completion.record)),
            "greedy": greedy,
            "sampled": sampled,
        }
        for completion, greedy, sampled in zip(
            gallery.greedy, greedy_entries, sampled_entries, strict=True
        )
    ]


def _graded_entries(answers: Sequence[Completion]) -> list[dict[str, Any]]:
    """The text of every answer, and whether it is correct and well-formed."""
    correct, well_formed = grade_answers(answers)
    return [
        {"text": completion.text, "right": bool(is_correct), "well_formed": bool(is_formed)}
        for completion, is_correct, is_formed in zip(answers, correct, well_formed, strict=True)
    ]


def png_base64(pixels: UInt8[np.ndarray, "H W 3"] | None, largest_side: int = LARGEST_SIDE) -> str:
    """An image as a PNG file in base64, of at most ``largest_side`` pixels a side."""
    buffer = io.BytesIO()
    # The report contains every image in base64, so small files are worth the time.
    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((largest_side, largest_side))
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
