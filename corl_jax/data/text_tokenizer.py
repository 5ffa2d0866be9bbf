"""Text to token ids and back, and the prompts that the model was trained on. In: strings; out: lists of ids.

Every id is resolved by its string from the tokenizer's own file, since checkpoints differ.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from corl_jax.core.errors import UserError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
BEGIN_OF_IMAGE = "<begin_of_image>"
END_OF_IMAGE = "<end_of_image>"
IMAGE = "<image_placeholder>"
USER = "<|User|>"
ASSISTANT = "<|Assistant|>"
NEEDED = (BOS, EOS, PAD, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE)
SPECIAL = (*NEEDED, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- set user = message['role'] | lower in ['user', '<|user|>'] -%}"
    "{{ '" + USER + "' if user else '" + ASSISTANT + "' }}:"
    "{%- if message['content'] is string -%}"
    "{{ ' ' + message['content'] | trim if message['content'] | trim else '' }}"
    "{%- else -%}"
    "{{ ' ' }}"
    "{%- for part in message['content'] -%}"
    "{{ '\n' if not loop.first else '' }}"
    "{{ '" + IMAGE + "' if part['type'] == 'image' else part['text'] | trim }}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '\n\n' if user else eos_token }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}" + ASSISTANT + ":{%- endif -%}"
)
"""The Janus chat template, for folders that have none."""


class TextTokenizer:
    """A tokenizer in Hugging Face format together with the Janus chat template.

    Attributes:
      bos_id, eos_id, pad_id: ids of the sentence marks and of padding.
      boi_id, eoi_id, image_id: ids of begin of image, end of image and the image placeholder.
      user, assistant: how the two speakers are written: as tokens of their own, or as plain words where the tokenizer
        has no such tokens, as in Janus-1.3B.
      vocab_size: number of ids, added tokens included.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, where: str = "the tokenizer"):
        """Wraps ``tokenizer``; ``where`` names it in errors.

        Raises:
          UserError: a special token of Janus is missing.
        """
        known = tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in NEEDED if token not in known]
        if missing:
            raise UserError(
                f"{where} lacks the special tokens {', '.join(missing)}; expected the tokenizer of a Janus-Pro model"
            )
        ids = {token: known[token] for token in SPECIAL if token in known}
        self.user, self.assistant = (
            token if token in known else token.strip("<|>") for token in (USER, ASSISTANT)
        )
        self._tokenizer, self._where = tokenizer, where
        self.bos_id, self.eos_id, self.pad_id = ids[BOS], ids[EOS], ids[PAD]
        self.boi_id, self.eoi_id, self.image_id = ids[BEGIN_OF_IMAGE], ids[END_OF_IMAGE], ids[IMAGE]
        self.vocab_size = max(known.values()) + 1
        flagged = {
            found for found, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self._special = flagged | set(ids.values())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TextTokenizer:
        """Reads ``tokenizer.json`` in ``folder``.

        Raises:
          UserError: the file is missing or damaged, or a special token of Janus is missing.
        """
        path = pathlib.Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"there is no tokenizer.json in {str(folder)!r}; expected a Hugging Face model folder"
            )
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{str(path)!r} cannot be read as a tokenizer ({error}); get the file again"
            ) from None
        return cls(tokenizer, f"tokenizer {str(folder)!r}")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, special tokens in it understood, none added.

        Raises:
          UserError: the tokenizer has a fixed list of words and ``text`` has others.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown_token = self._tokenizer.model.unk_token
        if unknown_token is not None:
            unknown = self._tokenizer.token_to_id(unknown_token)
            spans = zip(encoding.offsets, encoding.ids, strict=True)
            words = dict.fromkeys(
                text[start:end] for (start, end), found in spans if found == unknown
            )
            if words:
                raise UserError(
                    f"{self._where} does not know {', '.join(map(repr, words))}; "
                    f"use words that the model was trained on: {self._known_words()}"
                )
        return encoding.ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ``ids`` up to the first end token, special tokens left out."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if token not in self._special:
                kept.append(token)
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def drawing_prompt(self, prompt: str) -> list[int]:
        """Ids that ask for a picture of ``prompt``; the next token is the first image token.

        Raises:
          UserError: ``prompt`` is empty, or holds special tokens or unknown words.
        """
        text = self._checked(prompt, "prompt")
        return [
            self.bos_id,
            *self.encode(f"{self.user}: {text}\n\n{self.assistant}:{BEGIN_OF_IMAGE}"),
        ]

    def question_prompt(self, question: str, image_tokens: int) -> list[int]:
        """Ids that ask ``question`` about one picture, which takes ``image_tokens`` placeholders between its marks.

        Raises:
          UserError: ``question`` is empty, or holds special tokens or unknown words.
        """
        text = self._checked(question, "question")
        ids = self.encode(f"{self.user}: {IMAGE}\n{text}\n\n{self.assistant}:")
        at = ids.index(self.image_id)
        picture = [self.boi_id, *[self.image_id] * image_tokens, self.eoi_id]
        return [self.bos_id, *ids[:at], *picture, *ids[at + 1 :]]

    def unconditional(self, ids: Sequence[int]) -> list[int]:
        """The prompt that says nothing: all but the first and the last id become padding, which is attended to."""
        return [ids[0], *[self.pad_id] * (len(ids) - 2), ids[-1]]

    def banned_text_ids(self, vocab_size: int | None = None) -> np.ndarray:
        """Ids never to be sampled as text: special tokens but the end token, and ids without a token.

        Args:
          vocab_size: width of the model's text head, if it is padded beyond the tokenizer.

        Returns:
          bool ``[vocab_size]``.
        """
        size = self.vocab_size if vocab_size is None else vocab_size
        if size < self.vocab_size:
            raise UserError(
                f"{self._where} has {self.vocab_size} ids, but the model's vocabulary has {size}; "
                "take the tokenizer of the same checkpoint"
            )
        banned = np.ones(size, bool)
        banned[list(self._tokenizer.get_vocab(with_added_tokens=True).values())] = False
        banned[sorted(self._special - {self.eos_id})] = True
        return banned

    def same_ids(self, other: TextTokenizer) -> bool:
        """Whether both give every token the same id."""
        mine, theirs = (one._tokenizer.get_vocab(with_added_tokens=True) for one in (self, other))
        return mine == theirs

    def _known_words(self) -> str:
        words = sorted(
            word for word in self._tokenizer.get_vocab(with_added_tokens=False) if word.isalpha()
        )
        return ", ".join(words[:100])

    def _checked(self, text: str, what: str) -> str:
        if not text.strip():
            raise UserError(f"the {what} is empty; write some words")
        found = [token for token in SPECIAL if token in text]
        if found:
            raise UserError(f"the {what} {text!r} holds the special token {found[0]}; leave it out")
        return text.strip()


def left_pad(
    rows: Sequence[Sequence[int]], pad_id: int, multiple: int = 8, length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array, padded on the left.

    Args:
      rows: ``B`` prompts.
      pad_id: what fills up.
      multiple: the common length is rounded up to this, so that programs are compiled for few lengths.
      length: the common length itself, instead.

    Returns:
      tokens int32 ``[B, P]``, mask bool ``[B, P]``.

    Raises:
      UserError: a row is longer than ``length``.
    """
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple if length is None else length
    if longest > width:
        raise UserError(
            f"a prompt has {longest} tokens, at most {width} are allowed; shorten it or raise the prompt length"
        )
    tokens = np.full((len(rows), width), pad_id, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = row
        mask[i, width - len(row) :] = True
    return tokens, mask
