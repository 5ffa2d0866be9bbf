"""The word-level tokenizer of the embedded world, as a Hugging Face folder. In: a folder; out: its files."""

from __future__ import annotations

import json
import os
import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers

from corl_jax.data.shapes.captions import NUMBERS
from corl_jax.data.shapes.scene import COLOURS, SHAPES
from corl_jax.data.text_tokenizer import (
    ASSISTANT,
    BEGIN_OF_IMAGE,
    BOS,
    CHAT_TEMPLATE,
    END_OF_IMAGE,
    EOS,
    IMAGE,
    PAD,
    SPECIAL,
    USER,
)

UNKNOWN = "<unk>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LAYOUT = ("\n", "\n\n", ".", ",", ":", "?", "A", "B", "C", "D")
WORDS = (
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    *NUMBERS,
    *("object", "objects", "a", "an", "and", "left", "right", "of", "above", "below"),
    *("how", "many", "are", "there", "what", "colour", "shape", "is", "the", "yes", "no"),
    *("describe", "picture", "list", "all", "nothing"),
)
DESCRIBE = "describe the picture."
"""The request for a caption."""


def vocabulary() -> dict[str, int]:
    """Token to id: special tokens first, then layout, tags and words."""
    return {
        token: i
        for i, token in enumerate(dict.fromkeys([*SPECIAL, UNKNOWN, *LAYOUT, *TAGS, *WORDS]))
    }


def build_tokenizer() -> tokenizers.Tokenizer:
    """The tokenizer itself: words, tags, punctuation and line ends are tokens; spaces vanish."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    pattern = tokenizers.Regex(r"</?[a-z]+>|\n\n|\n|\w+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in (*SPECIAL, UNKNOWN)]
    )
    return tokenizer


def write_tokenizer(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json`` into ``folder`` (made if needed) and returns it.

    ``transformers.AutoTokenizer`` reads the folder, chat template included.
    """
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "additional_special_tokens": [BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE, USER, ASSISTANT],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    return out
