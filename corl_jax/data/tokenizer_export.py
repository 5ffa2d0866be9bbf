"""The tokenizer files of a model folder, with which transformers makes the ids of ``TextTokenizer``.

``tokenizer.json`` puts begin of sentence in front, as the published tokenizers do, and
``chat_template.jinja`` writes the prompts of the template.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers

from corl_jax.data.text_tokenizer import TextTokenizer

REPLACED_ENTRIES = (
    "chat_template",
    "added_tokens_decoder",
    "model_specific_special_tokens",
    "auto_map",
)
"""Entries of a ``tokenizer_config.json`` that would compete with the files written here."""


def export_tokenizer(
    tokenizer: TextTokenizer, content: str, config: Mapping[str, Any], folder: pathlib.Path
) -> None:
    """Writes the four tokenizer files of a model folder.

    Args:
      tokenizer: made of ``content``.
      content: text of a ``tokenizer.json``.
      config: entries of its ``tokenizer_config.json``; those that are not written here are kept.
      folder: an existing folder.
    """
    names = special_token_names(tokenizer) | _existing_unknown_token(config)
    roles = (tokenizer.user, tokenizer.assistant)
    kept = {key: value for key, value in config.items() if key not in REPLACED_ENTRIES}

    _write(folder / "tokenizer.json", tokenizer_json(tokenizer, content))
    _write_json(folder / "tokenizer_config.json", kept | tokenizer_config(tokenizer))
    _write_json(folder / "special_tokens_map.json", names)
    _write(folder / "chat_template.jinja", tokenizer.template.chat_template_text(roles))


def tokenizer_json(tokenizer: TextTokenizer, content: str) -> str:
    """``content`` with which transformers encodes and decodes as ``tokenizer`` does.

    It puts begin of sentence in front, cuts and pads nothing, and flags as special what
    ``TextTokenizer.decode`` leaves out. A text with which this is so already is returned as it is.
    """
    raw = json.loads(content)
    is_special = tokenizer.banned_text_ids()
    is_special[tokenizer.eos_id] = True

    # Scripts that call their tokenizer with ``truncation=True`` and save it leave that in the file.
    changed = raw | {
        "truncation": None,
        "padding": None,
        "added_tokens": [
            token | {"special": bool(is_special[token["id"]])} for token in raw["added_tokens"]
        ],
    }
    if not _adds_bos(content, tokenizer.bos_id):
        changed["post_processor"] = _bos_processor(tokenizer)
    return content if changed == raw else json.dumps(changed, indent=2, ensure_ascii=False) + "\n"


def _adds_bos(content: str, bos_id: int) -> bool:
    """Whether a tokenizer adds begin of sentence to a text and nothing else."""
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.encode("a").ids == [
        bos_id,
        *tokenizer.encode("a", add_special_tokens=False).ids,
    ]


def _bos_processor(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The post-processor of a ``tokenizer.json`` that puts begin of sentence in front of texts."""
    bos = tokenizer.template.bos

    def text(sequence: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": bos, "type_id": type_id}},
            {"Sequence": {"id": sequence, "type_id": type_id}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }


def tokenizer_config(tokenizer: TextTokenizer) -> dict[str, Any]:
    """Entries of a ``tokenizer_config.json`` that the processor of transformers needs."""
    # The processor requests these three tokens from the tokenizer by name.
    template = tokenizer.template
    image_tokens = {
        "image_token": template.image,
        "boi_token": template.begin_of_image,
        "eoi_token": template.end_of_image,
    }
    return {
        # This class takes ``tokenizer.json`` as it is; others rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_token_names(tokenizer),
        "add_bos_token": True,
        "add_eos_token": False,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": image_tokens,
        **image_tokens,
    }


def special_token_names(tokenizer: TextTokenizer) -> dict[str, Any]:
    """Special tokens under the names that transformers has for them."""
    template = tokenizer.template
    named = {"bos_token": template.bos, "eos_token": template.eos, "pad_token": template.pad}
    # Roles that are plain words are no special tokens.
    others = (*template.required_tokens, tokenizer.user, tokenizer.assistant)
    return named | {
        "additional_special_tokens": [
            token
            for token in others
            if token in template.special_tokens and token not in named.values()
        ]
    }


def _existing_unknown_token(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"unk_token": config["unk_token"]} if config.get("unk_token") else {}


def _write_json(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    _write(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, "utf-8")
