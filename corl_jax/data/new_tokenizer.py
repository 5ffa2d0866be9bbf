"""Tokenizers that read any text, made from nothing or from texts of the user.

Every byte is a token, so that no word is unknown. A byte-level BPE has tokens for what its texts
repeat as well, and makes shorter prompts of them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.sources.base import DescribedSource
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.tokenizer_export import export_tokenizer

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tags of an answer, which are tokens of their own: a small policy then finds them sooner."""


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer with a token for each byte, the tags, and the special tokens of Janus."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    return _with_special_tokens(model)


def train_bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` ids, trained on ``texts`` by ``tokenizers``.

    Raises:
      UserError: there are no texts, or fewer ids than bytes and special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    reserved = len(JANUS_TEMPLATE.special_tokens) + len(TAGS)
    least = len(alphabet) + reserved
    if vocab_size < least:
        raise UserError(
            f"a byte-level vocabulary must have at least {least} ids, one per byte and those of "
            f"special tokens; got {vocab_size}. Raise --vocab-size"
        )
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError("a tokenizer must be trained on some texts; got none. Use --tokenizer byte")

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - reserved, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_special_tokens(tokenizer.model)


def write_new_tokenizer(tokenizer: tokenizers.Tokenizer, folder: pathlib.Path) -> TextTokenizer:
    """Writes the tokenizer files of a model folder; ``folder`` exists."""
    text_tokenizer = TextTokenizer(tokenizer)
    content = tokenizer.to_str(pretty=True)
    export_tokenizer(text_tokenizer, content, {"model_max_length": 4096}, folder)
    return text_tokenizer


def record_texts(source: DescribedSource) -> Iterator[str]:
    """Captions, questions and solutions of a source; rows that are unreadable have none."""
    for row in range(len(source)):
        if row not in source.unreadable:
            yield from _texts(source.text_record(row))


def _texts(record: Record) -> tuple[str, ...]:
    return (record.prompt, record.question, record.solution)


def _with_special_tokens(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Found before the text is split, so that they stay in one piece.
    special = [
        tokenizers.AddedToken(token, normalized=False) for token in JANUS_TEMPLATE.special_tokens
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in TAGS])
    return tokenizer
