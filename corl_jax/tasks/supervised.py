"""Conversations to imitate: questions with reasoned answers, captions, and pictures for captions.

In: records. Out: prompts with target texts, and drawing prompts with the pictures to be tokenised.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Prompts, Record, pytree
from corl_jax.data.shapes.captions import describe, listing
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.data.shapes.vocabulary import DESCRIBE
from corl_jax.data.text import TextTokenizer
from corl_jax.tasks.base import as_prompts, stack_pictures


@pytree()
class Lesson:
    """One supervised batch: rows to read and rows to draw.

    Attributes:
      reading: prompts with pictures; ``targets [B, T]`` and ``target_mask`` are what to say.
      drawing: drawing prompts, some silenced for guidance; ``images [B, H, W, 3]`` is what to draw.
    """

    reading: Prompts
    targets: np.ndarray
    target_mask: np.ndarray
    drawing: Prompts
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Supervise:
    """Makes lessons, as a pure function of ``(seed, step, records)``.

    Attributes:
      tokenizer, image_tokens, image_size: of the model.
      reading_rows: records of a batch that are also read; all of them are drawn.
      seed: of captions, dropout and sloppiness.
      caption_share: share of reading rows that ask for a caption instead of the record's question.
      sloppy_share: share of answers written out of form (no thinking, or bare), so that the base has room to learn.
      dropout: share of drawing rows whose prompt is silenced, which makes guidance possible.
      drawing_length, reading_length, target_length: fixed widths in tokens.

    Raises:
      UserError: no row to read, a share outside [0, 1], or, when called, a text longer than its width.
    """

    tokenizer: TextTokenizer
    image_tokens: int
    image_size: int
    reading_rows: int
    seed: int
    caption_share: float
    sloppy_share: float
    dropout: float
    drawing_length: int
    reading_length: int
    target_length: int

    def __post_init__(self):
        if self.reading_rows < 1:
            raise UserError(f"reading_rows={self.reading_rows} leaves nothing to read; expected 1 or more")
        for name in ("caption_share", "sloppy_share", "dropout"):
            if not 0 <= (share := vars(self)[name]) <= 1:
                raise UserError(f"{name}={share} is no share; expected a number from 0 to 1")

    def __call__(self, records: tuple[Record, ...], step: int) -> Lesson:
        rng = np.random.default_rng([self.seed, step])
        read = records[: self.reading_rows]
        scenes = [parsed.scene for parsed in parse_batch(np.stack([record.image for record in read]))]
        asks, says, draws = [], [], []
        for record in records:
            ids = self.tokenizer.drawing_prompt(record.prompt)
            draws.append(self.tokenizer.unconditional(ids) if rng.random() < self.dropout else ids)
        for record, scene in zip(read, scenes, strict=True):
            if rng.random() < self.caption_share:
                asks.append(self.tokenizer.question_prompt(DESCRIBE, self.image_tokens))
                says.append(describe(scene))
            else:
                asks.append(self.tokenizer.question_prompt(record.question, self.image_tokens))
                says.append(self._answer(listing(scene), record.answer, rng))
        pictures = stack_pictures(records, self.image_size)
        targets, mask = self._right_pad([[*self.tokenizer.encode(text), self.tokenizer.eos_id] for text in says])
        return Lesson(
            as_prompts(asks, self.tokenizer, self.reading_length, pictures[: self.reading_rows]),
            targets,
            mask,
            as_prompts(draws, self.tokenizer, self.drawing_length),
            pictures,
        )

    def _answer(self, thought: str, answer: str, rng: np.random.Generator) -> str:
        if rng.random() >= self.sloppy_share:
            return f"<think> {thought} </think> <answer> {answer} </answer>"
        forms = (f"<answer> {answer} </answer>", answer, f"<think> {thought} </think> {answer}")
        return forms[rng.integers(len(forms))]

    def _right_pad(self, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full((len(rows), self.target_length), self.tokenizer.pad_id, np.int32)
        mask = np.zeros((len(rows), self.target_length), bool)
        for i, row in enumerate(rows):
            if len(row) > self.target_length:
                raise UserError(
                    f"a target has {len(row)} tokens, at most {self.target_length} are allowed; raise target_length"
                )
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return tokens, mask
