"""Token ids of captions to text. In: the folder of a captioner, or none for ``tiny``; out: its word pieces.

Compatible with ``BertTokenizer`` (transformers 5): ``tokenizer.json``, or ``vocab.txt`` alone.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.vocabulary import WORDS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY_WORDS = (*SPECIAL, *dict.fromkeys(WORDS))
"""The vocabulary of ``tiny``: BERT's special tokens and the words of the embedded world."""


def word_pieces(vocabulary: Sequence[str]) -> tokenizers.Tokenizer:
    """The tokenizer of a list of pieces, one id each; ``##`` marks what goes on with a word."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([token for token in SPECIAL if token in ids])
    return tokenizer


def load_words(folder: pathlib.Path | None, vocab_size: int, sep_id: int) -> tokenizers.Tokenizer:
    """The tokenizer in ``folder``; that of ``TINY_WORDS`` where there is none.

    Args:
      folder: with ``tokenizer.json`` or ``vocab.txt``.
      vocab_size: of the model, which may have ids beyond the tokenizer; they are no text.
      sep_id: what the model ends a caption with.

    Raises:
      UserError: no such file, a damaged one, or the tokenizer of another model.
    """
    if folder is None:
        return word_pieces(TINY_WORDS)
    json, text = folder / "tokenizer.json", folder / "vocab.txt"
    if not json.is_file() and not text.is_file():
        raise UserError(f"there is no tokenizer.json and no vocab.txt in {str(folder)!r}; get the model's folder again")
    path = json if json.is_file() else text
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(json)) if path == json else word_pieces(_lines(text))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{str(path)!r} cannot be read as a tokenizer ({error}); get the file again") from None
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size or tokenizer.id_to_token(sep_id) != "[SEP]":
        raise UserError(
            f"the tokenizer {str(path)!r} has {size} tokens and id {sep_id} is {tokenizer.id_to_token(sep_id)!r}; "
            f"expected at most {vocab_size} and '[SEP]', as config.json says; take the files of one checkpoint"
        )
    return tokenizer


def _lines(path: pathlib.Path) -> list[str]:
    """One piece a line; a piece may hold characters that Python takes for ends of lines too."""
    return [line.removesuffix("\r") for line in path.read_text("utf-8").removesuffix("\n").split("\n")]
