"""Word pieces of BERT and MPNet folders. In: a folder (or none, for the tiny twins) and texts; out: rows of ids.

``tokenizer.json`` is used as it lies there; without it ``vocab.txt`` with the rules of BERT (Devlin et al. 2019), as
``BertTokenizer`` of transformers reads it, lower-casing as ``tokenizer_config.json`` says.
"""

from __future__ import annotations

import dataclasses
import pathlib
import string
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from corl_jax.core.errors import UserError
from corl_jax.porting.janus.folder import read_json


@dataclasses.dataclass(frozen=True)
class Marks:
    """The tokens that stand around a text, those of padding and of words that have no pieces, as they are written."""

    start: str
    end: str
    pad: str
    unknown: str


BERT_MARKS = Marks("[CLS]", "[SEP]", "[PAD]", "[UNK]")
MPNET_MARKS = Marks("<s>", "</s>", "<pad>", "[UNK]")


class WordPieces:
    """Texts to rows of ids between a mark of start and one of end.

    Attributes:
      pad_id: what fills up a row.
    """

    def __init__(self, folder: pathlib.Path | None, marks: Marks, max_tokens: int, vocab_size: int):
        """Reads the folder's tokenizer; ``None`` gives a vocabulary of ASCII letters, digits and punctuation.

        Args:
          folder: of the encoder.
          marks: of its kind.
          max_tokens: of a row, marks included; what a text has beyond is cut off.
          vocab_size: rows of the encoder's table.

        Raises:
          UserError: no tokenizer, a damaged one, or one of another model.
        """
        where = "the tiny vocabulary" if folder is None else repr(str(folder))
        self._tokenizer = _tiny(marks) if folder is None else _of_folder(folder, marks)
        self._tokenizer.no_padding()  # folders of sentence encoders come with short limits of their own
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = (
            True  # a caption that writes a mark has written a word
        )
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        missing = [mark for mark in dataclasses.astuple(marks) if mark not in vocabulary]
        if missing:
            raise UserError(
                f"the tokenizer in {where} lacks {', '.join(missing)}; take the tokenizer files of the same checkpoint"
            )
        if max(vocabulary.values()) >= vocab_size:
            raise UserError(
                f"the tokenizer in {where} has ids up to {max(vocabulary.values())}, but its model has {vocab_size} "
                "words; take the tokenizer files of the same checkpoint"
            )
        self.pad_id, self._max_tokens = vocabulary[marks.pad], max_tokens
        self._start, self._end = vocabulary[marks.start], vocabulary[marks.end]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, cut off at the limit; a text without words gives the two marks alone."""
        rows = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[self._start, *row.ids[: self._max_tokens - 2], self._end] for row in rows]


def read_tokenizer(
    folder: pathlib.Path, of_words: Callable[[list[str]], tokenizers.Tokenizer]
) -> tokenizers.Tokenizer:
    """``tokenizer.json`` as it lies in a folder, or ``of_words`` of the lines of its ``vocab.txt``.

    Raises:
      UserError: neither is there, or one is damaged.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{str(path)!r} cannot be read as a tokenizer ({error}); get the file again"
            ) from None
    path = folder / "vocab.txt"
    if not path.is_file():
        raise UserError(
            f"there is no tokenizer.json and no vocab.txt in {str(folder)!r}; expected one of them beside the weights"
        )
    try:
        lines = (
            path.read_text("utf-8").removesuffix("\n").split("\n")
        )  # a piece may hold other ends of lines
    except UnicodeDecodeError as error:
        raise UserError(
            f"{str(path)!r} is not a list of words in UTF-8 ({error}); get the file again"
        ) from None
    return of_words([line.removesuffix("\r") for line in lines])


def _of_folder(folder: pathlib.Path, marks: Marks) -> tokenizers.Tokenizer:
    told = folder / "tokenizer_config.json"
    config = read_json(folder, told.name) if told.is_file() else {}
    return read_tokenizer(folder, lambda words: _pieces(words, marks, config))


def _pieces(words: Sequence[str], marks: Marks, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer over ``words``; what ``config`` leaves out is as ``BertTokenizer`` has it."""
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=marks.unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _tiny(marks: Marks) -> tokenizers.Tokenizer:
    letters = string.ascii_lowercase + string.digits
    words = [
        *dataclasses.astuple(marks),
        *letters,
        *(f"##{letter}" for letter in letters),
        *string.punctuation,
    ]
    return _pieces(words, marks, {})
