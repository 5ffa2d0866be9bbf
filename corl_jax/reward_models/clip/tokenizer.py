"""CLIP's texts: byte pairs with an end of word. In: strings; out: ids ``[N, 77]``, marked at both ends.

Compatible with ``CLIPTokenizer`` of transformers, and with open_clip on texts that need no repair of their encoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import models, normalizers, pre_tokenizers

from corl_jax.core.errors import UserError
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.clip.model import ClipConfig

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""The words of a text: marks, English endings, runs of letters, single digits, runs of anything else."""
END_OF_WORD = "</w>"


class ClipTokenizer:
    """Texts to ids of a fixed length; a longer text loses its last words and keeps its end token."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, cfg: ClipConfig, where: str):
        """Wraps ``tokenizer``; ``where`` names it in errors.

        Raises:
          UserError: it has no start or end token, or ids that the model ``cfg`` does not have.
        """
        known = tokenizer.get_vocab(with_added_tokens=True)
        if missing := [mark for mark in (START, END) if mark not in known]:
            raise UserError(
                f"{where} lacks {' and '.join(missing)}; expected the tokenizer of a CLIP"
            )
        if max(known.values()) >= cfg.vocab_size:
            raise UserError(
                f"{where} has {max(known.values()) + 1} ids, its model {cfg.vocab_size}; "
                "take the files of one checkpoint"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._context = tokenizer, cfg.context
        self.start_id, self.end_id = known[START], known[END]

    @classmethod
    def of(cls, net: LoadedModel) -> ClipTokenizer:
        """The tokenizer of a net: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, in its folder.

        Raises:
          UserError: neither is there, or one is damaged.
        """
        if net.folder is None:
            return cls(build(*bytes_alone()), net.cfg, "the tiny tokenizer")
        whole, vocab, merges = (
            net.folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        where = f"the tokenizer in {str(net.folder)!r}"
        try:
            if whole.is_file():
                return cls(tokenizers.Tokenizer.from_file(str(whole)), net.cfg, where)
            if vocab.is_file() and merges.is_file():
                return cls(build(*models.BPE.read_file(str(vocab), str(merges))), net.cfg, where)
        except UserError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{where} cannot be read ({error}); get its files again") from None
        raise UserError(
            f"there is no tokenizer.json, and no vocab.json with merges.txt, in {str(net.folder)!r}; "
            "put the tokenizer files of the same checkpoint there"
        )

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "N L"]:
        """Ids int32 of each text: start, words, end, and the end token again up to the context's length."""
        ids = np.full((len(texts), self._context), self.end_id, np.int32)
        for row, found in zip(
            ids, self._tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True
        ):
            words = found.ids[: self._context - 2]
            row[: len(words) + 1] = [self.start_id, *words]
        return ids


def build(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary and its merges, lower case, white space of any kind as one space."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=END_OF_WORD)
    )
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([mark for mark in (START, END) if mark in vocab])
    return tokenizer


def bytes_alone() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of single bytes, inside and at the end of a word, for nets that have learnt nothing."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), START, END]
    return {token: i for i, token in enumerate(tokens)}, []
