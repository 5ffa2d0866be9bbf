"""The tokenizer that turns the token ids of captions into text.

In: the folder of a captioner, or none for ``tiny``. Out: its word-piece tokenizer. Compatible with
``BertTokenizer`` (transformers 5): ``tokenizer.json``, or ``vocab.txt`` alone.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.vocabulary import WORDS
from corl_jax.reward_models.bert.tokenizer import read_tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY_WORDS = (*SPECIAL_TOKENS, *dict.fromkeys(WORDS))
"""The vocabulary of ``tiny``: BERT's special tokens and the words of the embedded world."""


def word_piece_tokenizer(vocabulary: Sequence[str]) -> tokenizers.Tokenizer:
    """The tokenizer of a list of pieces, whose ids are their indices.

    ``##`` in front of a piece means that it continues a word.
    """
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    # Joins pieces to words, and puts punctuation next to the word before.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in ids])
    return tokenizer


def load_caption_tokenizer(
    folder: pathlib.Path | None, vocab_size: int, sep_id: int
) -> tokenizers.Tokenizer:
    """The tokenizer in ``folder``; without a folder, that of ``TINY_WORDS``.

    Args:
      folder: folder with ``tokenizer.json`` or ``vocab.txt``.
      vocab_size: ids of the model. It may be more than the tokenizer has; the rest is no text.
      sep_id: the id that ends a caption.

    Raises:
      UserError: the file is missing, damaged, or the tokenizer of another model.
    """
    if folder is None:
        return word_piece_tokenizer(TINY_WORDS)

    # Another model's tokenizer would give wrong captions without an error.
    tokenizer = read_tokenizer(folder, word_piece_tokenizer)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size or tokenizer.id_to_token(sep_id) != "[SEP]":
        raise UserError(
            f"the tokenizer in {str(folder)!r} must have at most {vocab_size} tokens and '[SEP]' "
            f"at id {sep_id}, as config.json says; got {size} tokens and "
            f"{tokenizer.id_to_token(sep_id)!r}. Take the files of one checkpoint"
        )
    return tokenizer
