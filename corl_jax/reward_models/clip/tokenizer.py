"""CLIP's tokenizer: byte pairs, with a mark at the end of each word.

In: texts. Out: ids ``[N, 77]`` with a start and an end token. Compatible with ``CLIPTokenizer`` of
transformers, and with open_clip on texts whose encoding needs no repair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import models, normalizers, pre_tokenizers

from corl_jax.core.errors import UserError
from corl_jax.data.tokenizer_files import (
    as_plain,
    call_library,
    check_encodable,
    open_tokenizer,
)
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.clip.model import ClipConfig

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""A word: a special token, an English ending, a run of letters, a digit, a run of anything else."""
END_OF_WORD = "</w>"


class ClipTokenizer:
    """Texts to ids of a fixed length; a longer text loses its last words, not its end token."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, cfg: ClipConfig, label: str):
        """Wraps ``tokenizer``; ``label`` names it in errors.

        Raises:
          UserError: it has no start or end token, or ids that the model ``cfg`` does not have.
        """
        # The tokenizer must fit the model: its special tokens, and no id beyond the table.
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if missing := [token for token in (START, END) if token not in vocabulary]:
            raise UserError(
                f"{label} must be that of a CLIP; got one without {' and '.join(missing)}. "
                "Take the tokenizer files of the same checkpoint"
            )

        if max(vocabulary.values()) >= cfg.vocab_size:
            raise UserError(
                f"{label} must have at most the {cfg.vocab_size} ids of its model; got "
                f"{max(vocabulary.values()) + 1}. Take the files of one checkpoint"
            )

        self._tokenizer = as_plain(tokenizer)
        self._context = cfg.context
        self.start_id = vocabulary[START]
        self.end_id = vocabulary[END]

    @classmethod
    def from_model(cls, model: LoadedModel) -> ClipTokenizer:
        """The tokenizer in a model's folder.

        It is in ``tokenizer.json``, or in ``vocab.json`` and ``merges.txt``.

        Raises:
          UserError: the files are missing or damaged.
        """
        if model.folder is None:
            return cls(build_tokenizer(*byte_vocabulary()), model.cfg, "the tiny tokenizer")

        tokenizer_path = model.folder / "tokenizer.json"
        vocab_path = model.folder / "vocab.json"
        merges_path = model.folder / "merges.txt"
        label = f"the tokenizer in {str(model.folder)!r}"

        # tokenizer.json holds everything; the other two need the rules of ``build_tokenizer``.
        if tokenizer_path.is_file():
            return cls(open_tokenizer(tokenizer_path), model.cfg, label)
        if vocab_path.is_file() and merges_path.is_file():
            tokenizer = call_library(
                lambda: build_tokenizer(*models.BPE.read_file(str(vocab_path), str(merges_path))),
                f"{label} cannot be read",
            )
            return cls(tokenizer, model.cfg, label)
        raise UserError(
            f"{str(model.folder)!r} must hold tokenizer.json, or vocab.json and merges.txt; got "
            "neither. Put the tokenizer files of the same checkpoint there"
        )

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "N L"]:
        """int32 ids of each text: start, words, end, and the end token again up to the context."""
        # Rows start filled with the end token, which also pads.
        ids = np.full((len(texts), self._context), self.end_id, np.int32)
        for text in texts:
            check_encodable(text)
        encodings = call_library(
            lambda: self._tokenizer.encode_batch(list(texts), add_special_tokens=False),
            "the tokenizer of the CLIP cannot encode a text",
        )
        for row, encoding in zip(ids, encodings, strict=True):
            words = encoding.ids[: self._context - 2]
            row[: len(words) + 1] = [self.start_id, *words]
        return ids


def build_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary and its merges.

    It lower-cases, and any white space counts as one space.
    """
    # The start and end tokens are added by ``ClipTokenizer``.
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=END_OF_WORD)
    )

    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Lowercase()]
    )

    # Words first, then each word as bytes.
    words = pre_tokenizers.Split(tokenizers.Regex(WORD_PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )

    # A text that contains a special token's text gets its id, as in the original.
    tokenizer.add_special_tokens([token for token in (START, END) if token in vocab])
    return tokenizer


def byte_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary for tiny models: single bytes, inside and at the end of a word; no merges."""
    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*byte_tokens, *(token + END_OF_WORD for token in byte_tokens), START, END]
    return {token: i for i, token in enumerate(tokens)}, []
