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
from corl_jax.reward_models.bert.tokenizer import read_tokenizer

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
    tokenizer = read_tokenizer(folder, word_pieces)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size or tokenizer.id_to_token(sep_id) != "[SEP]":
        raise UserError(
            f"the tokenizer in {str(folder)!r} has {size} tokens and id {sep_id} is {tokenizer.id_to_token(sep_id)!r}; "
            f"expected at most {vocab_size} and '[SEP]', as config.json says; take the files of one checkpoint"
        )
    return tokenizer
