"""The word-level tokenizer of the embedded world, written as a Hugging Face folder."""

from __future__ import annotations

import json
import os
import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers

from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.data.shapes.captions import NUMBERS
from corl_jax.data.shapes.scene import COLOURS, SHAPES

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
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``; returns the folder.

    ``transformers.AutoTokenizer`` reads the folder, chat template included.

    Args:
      folder: created if it does not exist.
    """
    folder_path = pathlib.Path(folder)
    folder_path.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(folder_path / "tokenizer.json"))

    # What transformers reads beside the tokenizer itself.
    template = JANUS_TEMPLATE
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": template.bos,
        "eos_token": template.eos,
        "pad_token": template.pad,
        "unk_token": UNKNOWN,
        "additional_special_tokens": [
            template.begin_of_image,
            template.end_of_image,
            template.image,
            template.user,
            template.assistant,
        ],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": template.chat_template,
    }
    (folder_path / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    return folder_path
