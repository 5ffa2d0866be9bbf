"""Word-piece tokenizers of BERT and MPNet folders.

In: a folder (none for the tiny models) and texts. Out: rows of token ids.

``tokenizer.json`` is used as it is. Without it, ``vocab.txt`` is read with the rules of BERT
(Devlin et al. 2019), which the tokenizers library has, and ``tokenizer_config.json`` decides about
lower case.
"""

from __future__ import annotations

import dataclasses
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence

import tokenizers
from tokenizers.implementations import BertWordPieceTokenizer

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.data.tokenizer_files import (
    MAX_TOKENS,
    as_plain,
    call_library,
    check_encodable,
    open_tokenizer,
)
from corl_jax.porting.janus.folder import read_json


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The texts of a tokenizer's special tokens.

    Attributes:
      start: first token of every text.
      end: last token of every text.
      pad: fills up a row.
      unknown: a word that the vocabulary has no pieces for.
    """

    start: str
    end: str
    pad: str
    unknown: str


BERT_SPECIAL_TOKENS = SpecialTokens("[CLS]", "[SEP]", "[PAD]", "[UNK]")
MPNET_SPECIAL_TOKENS = SpecialTokens("<s>", "</s>", "<pad>", "[UNK]")


class WordPieceTokenizer:
    """Texts to rows of ids between a start token and an end token.

    Attributes:
      pad_id: id that fills up a row.
    """

    def __init__(
        self,
        folder: pathlib.Path | None,
        special_tokens: SpecialTokens,
        max_tokens: int,
        vocab_size: int,
    ):
        """Reads the folder's tokenizer.

        Args:
          folder: folder of the encoder; None gives a vocabulary of ASCII letters, digits and
            punctuation.
          special_tokens: those of the encoder.
          max_tokens: tokens of a row, start and end included; the rest of a text is cut off.
          vocab_size: rows of the encoder's embedding table.

        Raises:
          UserError: the tokenizer is missing, damaged, or of another model.
        """
        if folder is None:
            source = "the tiny vocabulary"
            self._tokenizer = word_pieces(_tiny_words(special_tokens), special_tokens, source)
        else:
            source = repr(str(folder))
            self._tokenizer = _folder_tokenizer(folder, special_tokens)

        # A caption that contains the text of a special token contains words, not that token.
        self._tokenizer.encode_special_tokens = True

        # The tokenizer must fit the encoder: its special tokens, and no id beyond the table.
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        check_special_tokens(vocabulary, special_tokens, source)
        largest_id = max(vocabulary.values())
        if largest_id >= vocab_size:
            raise UserError(
                f"the tokenizer in {source} has ids up to {largest_id}, but its model has "
                f"{vocab_size} words; take the tokenizer files of the same checkpoint"
            )

        # ``encode_batch`` adds no special tokens; ``__call__`` puts these two round each text.
        self._max_tokens = max_tokens
        self.pad_id = vocabulary[special_tokens.pad]
        self._start_id = vocabulary[special_tokens.start]
        self._end_id = vocabulary[special_tokens.end]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, cut off at the limit; an empty text gives the start and end token."""
        for text in texts:
            check_encodable(text)
        encodings = call_library(
            lambda: self._tokenizer.encode_batch(list(texts), add_special_tokens=False),
            "the tokenizer of the text encoder cannot encode a text",
        )
        max_words = self._max_tokens - 2  # the start and end token take two places
        return [[self._start_id, *encoding.ids[:max_words], self._end_id] for encoding in encodings]


def read_tokenizer(
    folder: pathlib.Path, from_vocabulary: Callable[[list[str]], tokenizers.Tokenizer]
) -> tokenizers.Tokenizer:
    """The tokenizer in a folder.

    It is in ``tokenizer.json``, or made by ``from_vocabulary`` of the lines of ``vocab.txt``.

    Raises:
      UserError: both files are missing, or the file is damaged.
    """
    # The file of the tokenizers library, where the folder has one.
    path = folder / "tokenizer.json"
    if path.is_file():
        return open_tokenizer(path)

    # Else the list of pieces, one a line.
    path = folder / "vocab.txt"
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} must hold tokenizer.json or vocab.txt beside the weights; got "
            "neither. Get the tokenizer files of the same checkpoint"
        )

    try:
        # Not splitlines(): a word piece may contain other line separators.
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} must be a list of words in UTF-8 ({error}); get the file again"
        ) from None
    if len(lines) > MAX_TOKENS:
        raise UserError(
            f"{str(path)!r} must have at most {MAX_TOKENS} words; got {len(lines)}; get the file "
            "again"
        )
    return from_vocabulary([line.removesuffix("\r") for line in lines])


def _folder_tokenizer(folder: pathlib.Path, special_tokens: SpecialTokens) -> tokenizers.Tokenizer:
    config_path = folder / "tokenizer_config.json"
    raw = read_json(folder, config_path.name) if config_path.is_file() else {}
    config = JsonObject(raw, f"{config_path.name} of {str(folder)!r}")
    strip_accents = config.boolean("strip_accents") if config.has("strip_accents") else None
    return read_tokenizer(
        folder,
        lambda words: word_pieces(
            words,
            special_tokens,
            repr(str(folder)),
            lowercase=config.boolean("do_lower_case", True),
            split_chinese=config.boolean("tokenize_chinese_chars", True),
            strip_accents=strip_accents,
        ),
    )


def word_pieces(
    words: Sequence[str],
    special_tokens: SpecialTokens,
    source: str,
    *,
    lowercase: bool = True,
    split_chinese: bool = True,
    strip_accents: bool | None = None,
) -> tokenizers.Tokenizer:
    """BERT's tokenizer over the pieces ``words``, whose ids are their indices.

    Args:
      words: pieces; ``##`` in front of one means that it continues a word.
      special_tokens: among them.
      source: names the words in errors.
      lowercase: whether letters lose their case.
      split_chinese: whether each Chinese character is a word.
      strip_accents: whether letters lose their accents; None where they do with their case.

    Raises:
      UserError: a special token is missing.
    """
    vocabulary = {word: i for i, word in enumerate(words)}
    check_special_tokens(vocabulary, special_tokens, source)
    tokenizer = BertWordPieceTokenizer(
        vocabulary,
        unk_token=special_tokens.unknown,
        sep_token=special_tokens.end,
        cls_token=special_tokens.start,
        pad_token=special_tokens.pad,
        lowercase=lowercase,
        handle_chinese_chars=split_chinese,
        strip_accents=strip_accents,
    )
    return as_plain(tokenizers.Tokenizer.from_str(tokenizer.to_str()))


def check_special_tokens(
    vocabulary: Mapping[str, int], special_tokens: SpecialTokens, source: str
) -> None:
    """Raises UserError if a special token is missing."""
    if missing := [
        token for token in dataclasses.astuple(special_tokens) if token not in vocabulary
    ]:
        raise UserError(
            f"the tokenizer in {source} lacks {', '.join(missing)}; "
            "take the tokenizer files of the same checkpoint"
        )


def _tiny_words(special_tokens: SpecialTokens) -> list[str]:
    """Single characters, which can write any ASCII word."""
    letters = string.ascii_lowercase + string.digits
    continued = (f"##{letter}" for letter in letters)
    return [*dataclasses.astuple(special_tokens), *letters, *continued, *string.punctuation]
