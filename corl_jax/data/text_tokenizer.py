"""Text to token ids and back, and the prompts of a ``PromptTemplate`` as token ids.

Every special id is looked up by its string in the tokenizer's own file, since checkpoints differ.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from corl_jax.core.errors import UserError
from corl_jax.data.prompts import (
    JANUS_TEMPLATE,
    PromptTemplate,
    insert_image_tokens,
    pairs_of_tags,
)
from corl_jax.data.tokenizer_files import as_plain, call_library, check_encodable, open_tokenizer


class UnknownWords(UserError):
    """A text with words that a tokenizer of a fixed list of words does not have.

    Attributes:
      words: those words.
      label: what the tokenizer is called.
    """

    def __init__(self, label: str, words: Sequence[str], known: str):
        super().__init__(
            f"{label} does not know {', '.join(map(repr, words))}; "
            f"use words that the model was trained on: {known}"
        )
        self.label, self.words = label, tuple(words)


class TextTokenizer:
    """A tokenizer in Hugging Face format together with the prompt template of its model family.

    Attributes:
      template: the prompt template.
      bos_id, eos_id, pad_id: ids of begin of sentence, end of sentence and padding.
      boi_id, eoi_id, image_id: ids of begin of image, end of image and the image placeholder.
      user, assistant: how the two roles are written: as special tokens, or as plain words where
        the tokenizer has no such tokens, as in Janus-1.3B.
      vocab_size: number of ids, added tokens included.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        label: str = "the tokenizer",
        template: PromptTemplate = JANUS_TEMPLATE,
    ):
        """Wraps ``tokenizer``; error texts call it ``label``.

        Raises:
          UserError: a special token of the template is missing.
        """
        # A missing token is an error now, not at the first prompt that needs it.
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in template.required_tokens if token not in vocabulary]
        if missing:
            raise UserError(
                f"{label} lacks the special tokens {', '.join(missing)}; "
                f"use the tokenizer of a {template.family} model"
            )

        self.template = template
        self.user, self.assistant = template.role_names(vocabulary)
        self._tokenizer = as_plain(tokenizer)
        self._label = label

        self.bos_id = vocabulary[template.bos]
        self.eos_id = vocabulary[template.eos]
        self.pad_id = vocabulary[template.pad]
        self.boi_id = vocabulary[template.begin_of_image]
        self.eoi_id = vocabulary[template.end_of_image]
        self.image_id = vocabulary[template.image]
        self.vocab_size = max(vocabulary.values()) + 1

        # ``decode`` leaves these ids out, and they are never sampled as text: the tokens of the
        # template, and those that the file itself marks as special, but for tags.
        added_tokens = tokenizer.get_added_tokens_decoder().values()
        special_tokens = {token.content for token in added_tokens if token.special}
        special_tokens -= pairs_of_tags(special_tokens)
        self._special_ids = {
            vocabulary[token]
            for token in special_tokens | set(template.special_tokens)
            if token in vocabulary
        }

        # A tokenizer of a fixed list of words has an id for all others.
        model = tokenizer.model
        unknown = None if isinstance(model, tokenizers.models.Unigram) else model.unk_token
        self._unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        template: PromptTemplate = JANUS_TEMPLATE,
        name: str | None = None,
    ) -> TextTokenizer:
        """Reads ``tokenizer.json`` in ``folder``.

        Args:
          folder: of a model.
          template: the prompt template of its family.
          name: what error texts call the folder, such as the policy's; None for its path.

        Raises:
          UserError: the file is missing or damaged, or a special token of the template is missing.
        """
        path = pathlib.Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"there is no tokenizer.json in {str(folder)!r}; name a Hugging Face model folder"
            )
        return cls(open_tokenizer(path), f"tokenizer {(name or str(folder))!r}", template)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``. Special tokens in it are recognized, none are added.

        Raises:
          UnknownWords: the tokenizer has a fixed list of words and ``text`` has other words.
          UserError: ``text`` is too long, or is none.
        """
        check_encodable(text)
        encoding = call_library(
            lambda: self._tokenizer.encode(text, add_special_tokens=False),
            f"{self._label} cannot encode {text[:100]!r}",
        )

        # A word-level tokenizer (the tiny model's) would silently encode other words as unknown.
        if self._unknown_id is not None:
            spans = zip(encoding.offsets, encoding.ids, strict=True)
            unknown_words = dict.fromkeys(
                text[start:end] for (start, end), token_id in spans if token_id == self._unknown_id
            )
            if unknown_words:
                raise UnknownWords(self._label, tuple(unknown_words), self._known_words())
        return encoding.ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ``ids`` up to the first end token, without special tokens."""
        # What follows the end token in a padded row is not part of the text.
        text_ids: list[int] = []
        for token_id in map(int, ids):
            if token_id == self.eos_id:
                break
            if token_id not in self._special_ids:
                text_ids.append(token_id)
        # Special ids are left out above. The library would leave out tags as well.
        return call_library(
            lambda: self._tokenizer.decode(text_ids, skip_special_tokens=False),
            f"{self._label} cannot decode {text_ids[:20]}",
        )

    def image_generation_prompt(self, prompt: str) -> list[int]:
        """Ids that request an image of ``prompt``; the next token is the first image token.

        Raises:
          UserError: ``prompt`` is empty, or has special tokens or unknown words.
        """
        text = self.template.image_generation_text(
            self._check_text(prompt, "prompt"), (self.user, self.assistant)
        )
        return [self.bos_id, *self.encode(text)]

    def plan_opening(self, prompt: str) -> list[int]:
        """Ids of a prompt for an image of ``prompt`` up to the plan behind it.

        The ids of the plan and ``plan_ending`` come next.

        Raises:
          UserError: ``prompt`` is empty, or has special tokens or unknown words.
        """
        text = self.template.plan_opening_text(
            self._check_text(prompt, "prompt"), (self.user, self.assistant)
        )
        return [self.bos_id, *self.encode(text)]

    @functools.cached_property
    def plan_ending(self) -> tuple[int, ...]:
        """Ids behind a plan; the next token is the first image token."""
        suffix = self.template.image_generation_suffix((self.user, self.assistant))
        return tuple(self.encode(suffix))

    @property
    def has_fixed_words(self) -> bool:
        """Whether it has a fixed list of words, and no tokens to spell others with."""
        return isinstance(self._tokenizer.model, tokenizers.models.WordLevel)

    def wordless_generation_prompt(self) -> list[int]:
        """Ids that request an image of nothing: the template of ``image_generation_prompt`` alone."""
        text = self.template.image_generation_text("", (self.user, self.assistant))
        return [self.bos_id, *self.encode(text)]

    def question_prompt(self, question: str, image_tokens: int) -> list[int]:
        """Ids that ask ``question`` about one image.

        Args:
          question: the question, with the options of multiple choice.
          image_tokens: placeholders of the image, between begin and end of image.

        Raises:
          UserError: ``question`` is empty, or has special tokens or unknown words.
        """
        text = self.template.question_text(
            self._check_text(question, "question"), (self.user, self.assistant)
        )
        return self._with_image_tokens(text, image_tokens)

    def content_prompt(
        self,
        content: str,
        pictures: int,
        image_tokens: int,
        *,
        system: str = "",
        plain_roles: bool = False,
    ) -> list[int]:
        """Ids of a turn of the user that begins with pictures, as benchmarks put their questions.

        Args:
          content: what follows the pictures, perhaps with a line end in front.
          pictures: how many there are.
          image_tokens: placeholders of each.
          system: what comes before the turn; "" for nothing.
          plain_roles: writes the roles as words, as VLMEvalKit does for Janus.

        Raises:
          UserError: ``content`` is empty, or has special tokens or unknown words.
        """
        self._check_text(content, "question")
        roles = (self.user, self.assistant)
        if plain_roles:
            roles = self.template.role_names(())
        return self._with_image_tokens(
            self.template.content_text(content, pictures, system, roles), image_tokens
        )

    def _with_image_tokens(self, text: str, image_tokens: int) -> list[int]:
        """Ids of ``text``, whose images have one placeholder each; the model reads many."""
        # They stand between two marks.
        image_ids = [self.boi_id, *[self.image_id] * image_tokens, self.eoi_id]
        return [self.bos_id, *insert_image_tokens(self.encode(text), self.image_id, image_ids)]

    def unconditional_prompt(self, ids: Sequence[int]) -> list[int]:
        """The prompt ``ids`` without its words, for classifier-free guidance.

        All ids but the first and the last become padding, which is attended to
        (see docs/decisions.md#unconditional-prompt).
        """
        return [ids[0], *[self.pad_id] * (len(ids) - 2), ids[-1]]

    def banned_text_ids(self, vocab_size: int | None = None) -> np.ndarray:
        """Ids that are never sampled as text: special tokens but EOS, and ids without a token.

        Args:
          vocab_size: width of the model's text head, if it is padded beyond the tokenizer.

        Returns:
          bool ``[vocab_size]``.

        Raises:
          UserError: the tokenizer has more ids than ``vocab_size``.
        """
        size = self.vocab_size if vocab_size is None else vocab_size
        if size < self.vocab_size:
            raise UserError(
                f"{self._label} has {self.vocab_size} ids, but the model's vocabulary has {size}; "
                "take the tokenizer of the same checkpoint"
            )
        # Ids without a token stay banned: padding of the text head, and gaps in the vocabulary.
        banned = np.ones(size, bool)
        banned[list(self._tokenizer.get_vocab(with_added_tokens=True).values())] = False
        banned[sorted(self._special_ids - {self.eos_id})] = True
        return banned

    def same_ids(self, other: TextTokenizer) -> bool:
        """Whether both tokenizers give every token the same id."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary == other._tokenizer.get_vocab(with_added_tokens=True)

    def _known_words(self) -> str:
        """The first 100 words of the vocabulary, for an error text."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        words = sorted(word for word in vocabulary if word.isalpha())
        return ", ".join(words[:100])

    def _check_text(self, text: str, label: str) -> str:
        """``text`` without surrounding space; UserError if it is empty or has special tokens."""
        if not text.strip():
            raise UserError(f"the {label} is empty; write some words")

        # A special token in a prompt would change the structure of the prompt.
        special_tokens = [token for token in self.template.special_tokens if token in text]
        if special_tokens:
            raise UserError(
                f"the {label} {text!r} has the special token {special_tokens[0]}; leave it out"
            )
        return text.strip()


def truncated_rows(tokens: np.ndarray, eos_id: int) -> np.ndarray:
    """Which completions ``[..., T]`` lack the end token, as they reached the limit: ``[...]``."""
    # Behind the end token there may be anything; without one every token was sampled.
    return ~np.any(tokens == eos_id, -1)


def left_pad(
    rows: Sequence[Sequence[int]], pad_id: int, multiple: int = 8, length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks rows of ids in one array, padded on the left.

    Args:
      rows: ``B`` prompts.
      pad_id: id of the padding.
      multiple: the common length is rounded up to a multiple of this, so that programs are
        compiled for few lengths.
      length: the common length itself, instead.

    Returns:
      tokens int32 ``[B, P]``, mask bool ``[B, P]``.

    Raises:
      UserError: a row is longer than ``length``.
    """
    # Negative floor division rounds up.
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple if length is None else length
    if longest > width:
        raise UserError(
            f"a prompt has {longest} tokens, at most {width} are allowed; "
            "shorten it or raise the prompt length"
        )

    # All rows end in the last column, so that their next tokens are in the same column.
    tokens = np.full((len(rows), width), pad_id, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = row
        mask[i, width - len(row) :] = True
    return tokens, mask


def right_pad(
    rows: Sequence[Sequence[int]], pad_id: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks rows of ids in one array ``[B, length]``, padded on the right; with their mask."""
    tokens = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask
