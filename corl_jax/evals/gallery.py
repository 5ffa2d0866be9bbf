"""A few pictures and answers for people to look at, always of the same held-out records.

In: sampler, params, tokenizer, records. Out: a ``Gallery``, and its files in a folder: ``gallery_NAME.png``,
``gallery_NAME.json`` and ``answers_NAME.json``, pictures inside JSON as base64 PNG.
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
from PIL import Image

from corl_jax.core.files import write_whole
from corl_jax.core.types import Completion, Params, Record
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.engine.image_grid import image_grid
from corl_jax.evals.generation import STRICT, draw_all
from corl_jax.evals.runner import ANSWER_TOKENS
from corl_jax.evals.understanding import answer_all, verdicts
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.generate import PolicyFns

PROMPTS, QUESTIONS = 8, 12


@dataclasses.dataclass(frozen=True)
class Gallery:
    """What a policy drew and said.

    Attributes:
      guidance: that the pictures were drawn with.
      pictures: ``samples`` completions per prompt, side by side; ``shown``: bool each, exactly what was asked.
      samples: pictures per prompt.
      greedy, sampled: one completion per question, at temperature 0 and 1.
    """

    guidance: float
    samples: int
    pictures: tuple[Completion, ...]
    shown: np.ndarray
    greedy: tuple[Completion, ...]
    sampled: tuple[Completion, ...]


def gallery(
    sampler: PolicyFns,
    params: Params,
    tokenizer: TextTokenizer,
    records: Sequence[Record],
    *,
    guidance: float,
    seed: int,
    samples: int = 4,
    answer_tokens: int = ANSWER_TOKENS,
) -> Gallery:
    """Pictures of the first eight different captions, and answers to twelve questions that take turns by kind."""
    given = (sampler, params, tokenizer)
    prompts = list({record.prompt: record for record in reversed(records)}.values())[::-1][:PROMPTS]
    asked = by_turns(records)[:QUESTIONS]
    pictures = draw_all(
        *given, prompts, guidance=guidance, seed=seed, batch=PROMPTS, samples=samples
    )
    greedy, sampled = (
        answer_all(*given, asked, temperature=t, seed=seed, batch=QUESTIONS, length=answer_tokens)
        for t in (0.0, 1.0)
    )
    shown = compute_rewards(pictures, {STRICT: 1.0}, RewardContext()).total > 0.5
    return Gallery(guidance, samples, tuple(pictures), shown, tuple(greedy), tuple(sampled))


def by_turns(records: Sequence[Record]) -> list[Record]:
    """One record of every kind of question, then the next of every kind, and so on."""
    kinds: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        kinds[record.kind].append(record)
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return [record for turn in turns for record in turn if record is not None]


def write_gallery(folder: pathlib.Path, name: str, shown: Gallery) -> None:
    """Writes the three files of ``name`` (``before``, ``after``) into ``folder``, replacing older ones."""
    pixels = np.stack(
        [completion.pixels for completion in shown.pictures if completion.pixels is not None]
    )
    labels = [completion.record.prompt for completion in shown.pictures]
    sheet = image_grid(pixels, labels, shown.samples * 2, scale=max(1, 96 // pixels.shape[2]))
    sheet.save(folder / f"gallery_{name}.png")
    groups = [
        shown.pictures[i : i + shown.samples] for i in range(0, len(shown.pictures), shown.samples)
    ]
    rows = [
        {
            "id": group[0].record.id,
            "prompt": group[0].record.prompt,
            "pictures": [
                {"png": png_base64(completion.pixels), "right": bool(right)}
                for completion, right in zip(group, rights, strict=True)
            ],
        }
        for group, rights in zip(groups, shown.shown.reshape(-1, shown.samples), strict=True)
    ]
    drawn = {"guidance": shown.guidance, "prompts": rows}
    for part, value in (("gallery", drawn), ("answers", transcript(shown))):
        text = json.dumps(value, indent=1, ensure_ascii=False)
        write_whole(folder / f"{part}_{name}.json", text + "\n")


def transcript(shown: Gallery) -> list[dict[str, Any]]:
    """Questions with reference and both answers, as JSON values."""
    said = [_said(answers) for answers in (shown.greedy, shown.sampled)]
    return [
        {
            "id": completion.record.id,
            "question": completion.record.question,
            "reference": completion.record.answer,
            "qa_type": completion.record.qa_type,
            "choices": list(completion.record.choices),
            "kind": completion.record.kind,
            "png": png_base64(completion.record.image),
            "greedy": greedy,
            "sampled": sampled,
        }
        for completion, greedy, sampled in zip(shown.greedy, *said, strict=True)
    ]


def _said(answers: Sequence[Completion]) -> list[dict[str, Any]]:
    rights, forms = verdicts(answers)
    return [
        {"text": completion.text, "right": bool(right), "well_formed": bool(formed)}
        for completion, right, formed in zip(answers, rights, forms, strict=True)
    ]


def png_base64(pixels: np.ndarray | None) -> str:
    """A uint8 ``[H, W, 3]`` picture as a PNG file in base64."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
