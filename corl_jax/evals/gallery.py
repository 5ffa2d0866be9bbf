"""A few images and answers of a policy for people to look at, always of the same held-out records.

A ``Gallery`` becomes three files in a folder: ``gallery_NAME.png``, ``gallery_NAME.json`` and
``answers_NAME.json``. Images inside the JSON files are PNG in base64.
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
from jaxtyping import Bool, UInt8
from PIL import Image

from corl_jax.core.files import write_atomically
from corl_jax.core.types import Completion, Record
from corl_jax.data.records import image_of
from corl_jax.engine.image_grid import image_grid
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.generation import STRICT_REWARD, generate_all
from corl_jax.evals.understanding import answer_all, grade_answers
from corl_jax.rewards.base import RewardContext, compute_rewards

PROMPTS, QUESTIONS = 8, 12
CELL_WIDTH = 96
"""Width in pixels that small images are magnified to on the sheet; the factor is a whole number."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Samples of one policy.

    Attributes:
      guidance_scale: that the images were sampled with.
      samples: images per prompt, ``G``.
      images: ``B * G`` completions, prompt by prompt.
      correct: ``[B * G]``, whether an image shows exactly what its caption names.
      greedy: one answer per question, at temperature 0.
      sampled: one answer per question, at temperature 1.
    """

    guidance_scale: float
    samples: int
    images: tuple[Completion, ...]
    correct: Bool[np.ndarray, " N"]
    greedy: tuple[Completion, ...]
    sampled: tuple[Completion, ...]


def make_gallery(
    policy: EvalPolicy,
    records: Sequence[Record],
    sampling: EvalSampling,
    *,
    guidance_scale: float,
    samples: int = 4,
) -> Gallery:
    """Samples images of eight captions and answers to twelve questions.

    Args:
      policy: what generates and answers.
      records: held out from training, in a fixed order. The first different captions are used, and
        questions of every kind in turns.
      sampling: of an evaluation of the same records. The gallery runs its programs, and an answer
        and the first image of a caption are those that were measured.
      guidance_scale: of classifier-free guidance.
      samples: images per caption.
    """
    # One record per caption: of records with the same caption the first one is kept.
    place_of_caption = {records[place].prompt: place for place in range(len(records))[::-1]}
    captions = sorted(place_of_caption.values())[:PROMPTS]
    images = generate_all(policy, records, guidance_scale, sampling, samples, captions)

    # Turns by kind, so that twelve questions show as many kinds as possible.
    questions = interleave_kinds(records)[:QUESTIONS]
    greedy = answer_all(policy, records, 0.0, sampling, questions)
    sampled = answer_all(policy, records, 1.0, sampling, questions)

    # The strict reward is 0 or 1.
    correct = compute_rewards(images, {STRICT_REWARD: 1.0}, RewardContext()).total > 0.5
    return Gallery(guidance_scale, samples, tuple(images), correct, tuple(greedy), tuple(sampled))


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
    """Writes the three files of ``gallery`` into ``folder`` and replaces older ones.

    Args:
      folder: it must exist.
      name: part of the file names: ``before`` or ``after``.
      gallery: what to write.
    """
    # The sheet: one PNG with the caption under every image, two prompts per row.
    pixels = np.stack(
        [completion.pixels for completion in gallery.images if completion.pixels is not None]
    )
    captions = [completion.record.prompt for completion in gallery.images]
    scale = max(1, CELL_WIDTH // pixels.shape[2])
    sheet = image_grid(pixels, captions, gallery.samples * 2, scale=scale)
    png = io.BytesIO()
    sheet.save(png, "PNG")
    write_atomically(folder / f"gallery_{name}.png", png.getvalue())

    # The same as data, for the report.
    prompts = {"guidance": gallery.guidance_scale, "prompts": image_entries(gallery)}
    for part, value in (("gallery", prompts), ("answers", answer_entries(gallery))):
        text = json.dumps(value, indent=1, ensure_ascii=False)
        write_atomically(folder / f"{part}_{name}.json", text + "\n")


def image_entries(gallery: Gallery) -> list[dict[str, Any]]:
    """Prompts with their images and whether each is correct, as JSON values."""
    entries = []
    # Completions come prompt by prompt: every `samples` of them share a record.
    for start in range(0, len(gallery.images), gallery.samples):
        group = gallery.images[start : start + gallery.samples]
        group_correct = gallery.correct[start : start + gallery.samples]
        pictures = [
            {"png": png_base64(completion.pixels), "right": bool(correct)}
            for completion, correct in zip(group, group_correct, strict=True)
        ]
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


def png_base64(pixels: UInt8[np.ndarray, "H W 3"] | None) -> str:
    """An image as a PNG file in base64."""
    buffer = io.BytesIO()
    # The report contains every image in base64, so small files are worth the time.
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
