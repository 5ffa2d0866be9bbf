"""The tokenizer that turns the token ids of captions into text.

In: the folder of a captioner, or none for ``tiny``. Out: its word-piece tokenizer. Compatible with
``BertTokenizer`` (transformers 5): ``tokenizer.json``, or ``vocab.txt`` alone.
"""

from __future__ import annotations

import pathlib

import tokenizers

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.vocabulary import WORDS
from corl_jax.reward_models.bert.tokenizer import BERT_SPECIAL_TOKENS, read_tokenizer, word_pieces

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY_WORDS = (*SPECIAL_TOKENS, *dict.fromkeys(WORDS))
"""The vocabulary of ``tiny``: BERT's special tokens and the words of the embedded world."""


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
        return word_pieces(TINY_WORDS, BERT_SPECIAL_TOKENS, "the tiny vocabulary")

    # Another model's tokenizer would give wrong captions without an error.
    source = repr(str(folder))
    tokenizer = read_tokenizer(
        folder, lambda words: word_pieces(words, BERT_SPECIAL_TOKENS, source)
    )
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size or tokenizer.id_to_token(sep_id) != "[SEP]":
        raise UserError(
            f"the tokenizer in {source} must have at most {vocab_size} tokens and '[SEP]' "
            f"at id {sep_id}, as config.json says; got {size} tokens and "
            f"{tokenizer.id_to_token(sep_id)!r}. Take the files of one checkpoint"
        )
    return tokenizer
