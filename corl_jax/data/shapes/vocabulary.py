"""The word-level tokenizer of the embedded world, written as a Hugging Face folder."""

from __future__ import annotations

import os
import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers

from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.shapes.captions import NUMBERS
from corl_jax.data.shapes.scene import COLOURS, SHAPES
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.tokenizer_export import export_tokenizer

# The order of all tokens decides their ids, which checkpoints depend on.
UNKNOWN = "<unk>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LAYOUT = ("\n", "\n\n", ".", ",", ":", "?", "A", "B", "C", "D")
WORDS = (
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    *NUMBERS,
    # Captions.
    *("object", "objects", "a", "an", "and", "left", "right", "of", "above", "below"),
    # Questions and their answers.
    *("how", "many", "are", "there", "what", "colour", "shape", "is", "the", "yes", "no"),
    # Requests for a caption.
    *("describe", "picture", "list", "all", "nothing"),
)
DESCRIBE = "describe the picture."
"""The question that requests a caption."""


def vocabulary() -> dict[str, int]:
    """Token -> id: special tokens first, then layout, tags and words."""
    tokens = [*JANUS_TEMPLATE.special_tokens, UNKNOWN, *LAYOUT, *TAGS, *WORDS]
    # A word that occurs twice keeps its first id.
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> tokenizers.Tokenizer:
    """The tokenizer itself. Words, tags, punctuation and line ends are tokens; spaces vanish."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))

    # ``invert``: the matches are the tokens, and what is between them (spaces) is removed.
    pattern = tokenizers.Regex(r"</?[a-z]+>|\n\n|\n|\w+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)

    # Special tokens are found before the text is split, so that they stay in one piece.
    special_tokens = (*JANUS_TEMPLATE.special_tokens, UNKNOWN)
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in special_tokens]
    )
    return tokenizer


def write_tokenizer(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the files of ``data.tokenizer_export``; returns the folder.

    ``transformers.AutoTokenizer`` reads the folder, chat template included.

    Args:
      folder: created if it does not exist.
    """
    folder_path = pathlib.Path(folder)
    folder_path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()

    config = {"unk_token": UNKNOWN, "model_max_length": 4096}
    content = tokenizer.to_str(pretty=True)
    export_tokenizer(TextTokenizer(tokenizer), content, config, folder_path)
    return folder_path
