"""Conversations to imitate: questions with reasoned answers, captions, and pictures for captions.

What is thought before an answer is read off the picture in the embedded world; other records say it themselves.

In: records. Out: prompts with target texts, and drawing prompts with the pictures to be tokenised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Prompts, Record, pytree
from corl_jax.data.shapes.captions import describe, listing
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.data.shapes.vocabulary import DESCRIBE
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import as_prompts, stack_pictures

CAPTION = "{scene}"
WHOLE = "<think> {thought} </think> <answer> {answer} </answer>"
MALFORMED = ("<answer> {answer} </answer>", "{answer}", "<think> {thought} </think> {answer}")
"""Answers out of form."""


@pytree()
class SftBatch:
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
class MakeSftBatch:
    """Makes lessons, as a pure function of ``(seed, step, records)``.

    Attributes:
      tokenizer, image_tokens, image_size: of the model.
      reading_rows: records of a batch that are also read; all of them are drawn.
      seed: of captions, dropout and sloppiness.
      caption_share: share of reading rows that ask for a caption instead of the record's question.
      sloppy_share: share of answers written out of form (no thinking, or bare), so that the base has room to learn.
      dropout: share of drawing rows whose prompt is silenced, which makes guidance possible.
      drawing_length, reading_length, target_length: fixed widths in tokens.
      world: whether pictures are the embedded world's, which are parsed; else rows say their own solution, and shares
        of forms do not matter.
      share: from a number of rows in a step to those of this process.

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
    world: bool = True
    share: Callable[[int], Sequence[int]] = range

    def __post_init__(self):
        if self.reading_rows < 1:
            raise UserError(
                f"reading_rows={self.reading_rows} leaves nothing to read; expected 1 or more"
            )
        for name in ("caption_share", "sloppy_share", "dropout"):
            if not 0 <= (share := vars(self)[name]) <= 1:
                raise UserError(f"{name}={share} is no share; expected a number from 0 to 1")

    def __call__(self, records: Sequence[Record], step: int) -> SftBatch:
        rng = np.random.default_rng(
            [self.seed, step]
        )  # decides for the rows of all processes, in order
        silent = [rng.random() < self.dropout for _ in range(len(records))]
        reading = min(self.reading_rows, len(records))
        forms = [self._form(rng) for _ in range(reading)]
        drawn = {i: records[i] for i in self.share(len(records))}
        read = {i: drawn[i] if i in drawn else records[i] for i in self.share(reading)}
        draws = []
        for i, record in drawn.items():
            ids = self.tokenizer.drawing_prompt(record.prompt)
            draws.append(self.tokenizer.unconditional(ids) if silent[i] else ids)
        asks = []
        for i, record in read.items():
            question = DESCRIBE if forms[i] == CAPTION else record.question
            asks.append(self.tokenizer.question_prompt(question, self.image_tokens))
        says = self._parsed(read, forms) if self.world else self._solved(read, forms)
        targets, mask = self._right_pad(
            [[*self.tokenizer.encode(text), self.tokenizer.eos_id] for text in says]
        )
        pictures = stack_pictures(tuple(read.values()), self.image_size)
        return SftBatch(
            as_prompts(asks, self.tokenizer, self.reading_length, pictures),
            targets,
            mask,
            as_prompts(draws, self.tokenizer, self.drawing_length),
            stack_pictures(tuple(drawn.values()), self.image_size),
        )

    def _parsed(self, read: Mapping[int, Record], forms: Sequence[str]) -> list[str]:
        """What is said of pictures of the embedded world."""
        scenes = [
            parsed.scene
            for parsed in parse_batch(np.stack([record.image for record in read.values()]))
        ]
        return [
            forms[i].format(scene=describe(scene), thought=listing(scene), answer=record.answer)
            for (i, record), scene in zip(read.items(), scenes, strict=True)
        ]

    def _solved(self, read: Mapping[int, Record], forms: Sequence[str]) -> list[str]:
        """What is said of other pictures: the row's caption, or its solution."""
        for record in read.values():
            if not record.solution:
                raise UserError(
                    f"record {record.id!r} has no solution to imitate; give its row a qa_solution"
                )
        return [
            record.prompt if forms[i] == CAPTION else record.solution for i, record in read.items()
        ]

    def _form(self, rng: np.random.Generator) -> str:
        """How a row is answered."""
        if rng.random() < self.caption_share:
            return CAPTION
        return (
            MALFORMED[rng.integers(len(MALFORMED))] if rng.random() < self.sloppy_share else WHOLE
        )

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
