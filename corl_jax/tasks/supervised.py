"""Batches for supervised training: answers with reasoning, captions, and images of captions.

In the embedded world the text before an answer (its "thought") is read off the image by the parser;
records of other data sets bring the text to imitate as their ``solution``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Prompts, Record, pytree
from corl_jax.data.question_templates import fill_in_question
from corl_jax.data.records import has_fields, image_of, record_label, require
from corl_jax.data.shapes.captions import canonical_caption, list_objects
from corl_jax.data.shapes.documents import ANSWER, THOUGHT, write_document
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.data.shapes.vocabulary import DESCRIBE
from corl_jax.data.text_tokenizer import TextTokenizer, right_pad
from corl_jax.tasks.base import (
    check_length,
    errors_name,
    pad_prompts,
    stack_images,
    stack_target_images,
)

# Formats of a target, filled in with the caption, or with thought and answer.
CAPTION = "{caption}"
WELL_FORMED = f"{THOUGHT} {ANSWER}"
MALFORMED = ("<answer> {answer} </answer>", "{answer}", "<think> {thought} </think> {answer}")
"""Answers whose format is wrong: tags are missing."""


@pytree()
class DocumentBatch:
    """Texts without images of which the answers are imitated, ``E`` rows.

    Attributes:
      prompts: what each begins with.
      tokens: int32 ``[E, T]``, right-padded.
      mask: bool ``[E, T]``, false behind the end of a text.
      is_answer: bool ``[E, T]``, the tokens to imitate.
    """

    prompts: Prompts
    tokens: np.ndarray
    mask: np.ndarray
    is_answer: np.ndarray


@pytree()
class UnderstandingBatch:
    """Questions about images, ``U`` rows.

    Attributes:
      prompts: questions with images.
      tokens: int32 ``[U, T]``, right-padded texts to imitate; they end in the end token.
      mask: bool ``[U, T]``, true up to and including the end token.
    """

    prompts: Prompts
    tokens: np.ndarray
    mask: np.ndarray


@pytree()
class GenerationBatch:
    """Captions with their images, ``B`` rows.

    Attributes:
      prompts: captions; some have no words, for guidance.
      images: float32 ``[B, H, W, 3]`` in [-1, 1], the images to imitate, cropped to a square.
    """

    prompts: Prompts
    images: np.ndarray


@pytree()
class SftBatch:
    """One supervised batch; None for a kind of rows that a run does not have."""

    understanding: UnderstandingBatch | None
    generation: GenerationBatch | None
    documents: DocumentBatch | None


@dataclasses.dataclass(frozen=True)
class MakeSftBatch:
    """Makes supervised batches; a pure function of ``(seed, step, records)``.

    Attributes:
      tokenizer: text tokenizer of the model.
      image_tokens: tokens per image.
      image_size: side of an image in pixels.
      understanding_rows: the first so many records of a batch are understanding rows.
      generation_rows: the first so many are generation rows; -1 is all of them.
      document_rows: of the first so many, documents are written.
      seed: seed of captions, dropout, malformed answers and documents.
      caption_share: share of understanding rows that request a caption instead of asking the
        record's question.
      malformed_share: share of answers in a wrong format (without reasoning, or without tags), so
        that reinforcement learning has something left to improve.
      cfg_dropout: share of generation rows whose prompt loses its words, which makes
        classifier-free guidance possible.
      generation_prompt_length, understanding_prompt_length, target_length, document_length: fixed
        widths in tokens.
      parse_images: whether the images are of the embedded world, so that the targets are written
        from the parsed images. If not, every record must have a solution, and
        ``malformed_share`` has no effect.
      local_row_ids: maps the number of rows of a step to the row ids of this process.

    Raises:
      UserError: no row of any kind, documents of images that cannot be parsed, a share outside
        [0, 1] or, when called, a text that is longer than its width or a record without a solution.
    """

    tokenizer: TextTokenizer
    image_tokens: int
    image_size: int
    understanding_rows: int
    seed: int
    caption_share: float
    malformed_share: float
    cfg_dropout: float
    generation_prompt_length: int
    understanding_prompt_length: int
    target_length: int
    generation_rows: int = -1
    document_rows: int = 0
    document_length: int = 128
    parse_images: bool = True
    local_row_ids: Callable[[int], Sequence[int]] = range

    def __post_init__(self):
        if not (self.understanding_rows or self.generation_rows or self.document_rows):
            raise UserError(
                "config.sft must have rows of some kind; got 0 for understanding_rows, generation_rows "
                "and document_rows. Raise one of them"
            )
        if self.document_rows and not self.parse_images:
            raise UserError(
                f"document_rows={self.document_rows} writes documents of the embedded world, so all "
                "records must be of config.data.source=shapes. Set it to 0"
            )
        # The shares are probabilities of a row.
        for name in ("caption_share", "malformed_share", "cfg_dropout"):
            share = vars(self)[name]
            if not 0 <= share <= 1:
                raise UserError(f"{name} must be a share from 0 to 1; got {share}. Change it")

    def __call__(self, records: Sequence[Record], step: int) -> SftBatch:
        # Random choices. Every process makes those of all processes, in the order of the rows.
        rng = np.random.default_rng([self.seed, step])
        dropped = [rng.random() < self.cfg_dropout for _ in range(len(records))]
        understanding_rows = min(self.understanding_rows, len(records))
        formats = [self._sample_format(rng) for _ in range(understanding_rows)]

        # Only the rows of this process are read, each of them once.
        read = functools.cache(records.__getitem__)
        all_rows = len(records)
        generation_rows = all_rows if self.generation_rows < 0 else self.generation_rows
        generation, understanding, documented = (
            {i: read(i) for i in self.local_row_ids(min(rows, all_rows))} if rows else {}
            for rows in (generation_rows, understanding_rows, self.document_rows)
        )
        return SftBatch(
            understanding=self._understanding(understanding, formats) if understanding else None,
            generation=self._generation(generation, dropped) if generation else None,
            documents=self._documents(documented, step) if documented else None,
        )

    def _understanding(
        self, records: Mapping[int, Record], formats: Sequence[str]
    ) -> UnderstandingBatch:
        """Questions, and what the model should answer; fixed widths, so that the step compiles once."""
        ids = self._question_ids(records, formats)
        images = stack_images(tuple(records.values()), self.image_size)
        make_texts = self._texts_from_images if self.parse_images else self._texts_from_records
        tokens, mask = self._pad_targets(records.values(), make_texts(records, formats))
        prompts = pad_prompts(ids, self.tokenizer, self.understanding_prompt_length, images)
        return UnderstandingBatch(prompts, tokens, mask)

    def _generation(
        self, records: Mapping[int, Record], dropped: Sequence[bool]
    ) -> GenerationBatch:
        """Captions, and the images that the model should draw."""
        ids = self._generation_prompt_ids(records, dropped)
        return GenerationBatch(
            pad_prompts(ids, self.tokenizer, self.generation_prompt_length),
            stack_target_images(tuple(records.values()), self.image_size),
        )

    def _documents(self, records: Mapping[int, Record], step: int) -> DocumentBatch:
        """Documents of the scenes of ``records``, each with its own random questions."""
        images = np.stack([image_of(record) for record in records.values()])
        encode, length = self.tokenizer.encode, self.document_length
        documents, flags = [], []
        for i, parsed in zip(records, parse_batch(images), strict=True):
            rng = np.random.default_rng([self.seed, step, i])
            ids, is_answer = write_document(parsed.scene, rng, encode, length)
            documents.append(ids)
            flags.append(is_answer)

        tokens, mask = right_pad(documents, self.tokenizer.pad_id, length)
        answer_flags, _ = right_pad(flags, 0, length)
        start = np.full((len(records), 1), self.tokenizer.bos_id, np.int32)
        prompts = Prompts(start, np.ones_like(start, bool))
        return DocumentBatch(prompts, tokens, mask, answer_flags.astype(bool))

    @property
    def checks(self) -> list[Callable[[Record], object]]:
        """Checks of every text that a batch may make of a record, whatever its format and its epoch.

        Each raises UserError. A record that lacks something is refused by the first alone. Targets of
        the embedded world are not checked, since they are read off images.
        """
        # Every record is drawn; those that are read may ask for its caption.
        is_asked = self.caption_share < 1
        fields = ("prompt", "image", *(("question", "answer") if is_asked else ()))

        def check_fields(record: Record) -> None:
            require(record, "supervised training", fields)

        def if_whole(make_ids: Callable[[Record], object]) -> Callable[[Record], object]:
            return lambda record: has_fields(record, fields) and make_ids(record)

        checks = [check_fields, if_whole(self._prompt_ids)]
        for format_ in (CAPTION, WELL_FORMED) if is_asked else (CAPTION,):
            checks.append(if_whole(functools.partial(self._question_ids_of, format_=format_)))
            if not self.parse_images:
                checks.append(if_whole(functools.partial(self._target_ids_of, format_=format_)))
        return checks

    def _sample_format(self, rng: np.random.Generator) -> str:
        """The format of the target of an understanding row; ``CAPTION`` if it is a caption."""
        # The number of random draws differs between rows; their order must not change.
        if rng.random() < self.caption_share:
            return CAPTION
        if rng.random() < self.malformed_share:
            return MALFORMED[rng.integers(len(MALFORMED))]
        return WELL_FORMED

    def _generation_prompt_ids(
        self, records: Mapping[int, Record], dropped: Sequence[bool]
    ) -> list[list[int]]:
        """Token ids of the image prompts, without words where ``dropped``."""
        rows = []
        for i, record in records.items():
            # A prompt without words trains the unconditional distribution.
            ids = self._prompt_ids(record)
            rows.append(self.tokenizer.unconditional_prompt(ids) if dropped[i] else ids)
        return rows

    def _prompt_ids(self, record: Record) -> list[int]:
        with errors_name(record):
            ids = self.tokenizer.image_generation_prompt(record.prompt)
        key = "sft.generation_prompt_length"
        check_length(ids, self.generation_prompt_length, record, "prompt", key)
        return ids

    def _question_ids(
        self, records: Mapping[int, Record], formats: Sequence[str]
    ) -> list[list[int]]:
        """Token ids of the questions; of the request for a caption where that is the target."""
        return [self._question_ids_of(record, formats[i]) for i, record in records.items()]

    def _question_ids_of(self, record: Record, format_: str) -> list[int]:
        question = DESCRIBE if format_ == CAPTION else fill_in_question(record)
        with errors_name(record):
            ids = self.tokenizer.question_prompt(question, self.image_tokens)
        key = "sft.understanding_prompt_length"
        check_length(ids, self.understanding_prompt_length, record, "question", key)
        return ids

    def _texts_from_images(
        self, records: Mapping[int, Record], formats: Sequence[str]
    ) -> list[str]:
        """Targets in the embedded world: caption and reasoning are read off the image."""
        # All images are parsed in one vectorized call.
        images = np.stack([image_of(record) for record in records.values()])
        scenes = [parsed.scene for parsed in parse_batch(images)]

        texts = []
        for (i, record), scene in zip(records.items(), scenes, strict=True):
            # A format uses the caption, or the thought and the answer.
            text = formats[i].format(
                caption=canonical_caption(scene),
                thought=list_objects(scene),
                answer=record.answer,
            )
            texts.append(text)
        return texts

    def _texts_from_records(
        self, records: Mapping[int, Record], formats: Sequence[str]
    ) -> list[str]:
        """Targets of other data sets: the record's caption, or its solution."""
        return [self._text_from_record(record, formats[i]) for i, record in records.items()]

    def _text_from_record(self, record: Record, format_: str) -> str:
        if format_ == CAPTION:
            return record.prompt
        if not record.solution:
            raise UserError(
                f"{record_label(record)} has no solution to imitate; give its row a qa_solution"
            )
        return record.solution

    def _pad_targets(
        self, records: Iterable[Record], texts: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask ``[U, T]`` of the texts, each with an end token, padded on the right."""
        rows = [self._target_ids(record, text) for record, text in zip(records, texts, strict=True)]
        return right_pad(rows, self.tokenizer.pad_id, self.target_length)

    def _target_ids_of(self, record: Record, format_: str) -> list[int]:
        return self._target_ids(record, self._text_from_record(record, format_))

    def _target_ids(self, record: Record, text: str) -> list[int]:
        """Tokens of a target. The end token is part of it: the model must learn to stop."""
        with errors_name(record):
            ids = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
        check_length(ids, self.target_length, record, "target", "sft.target_length")
        return ids
