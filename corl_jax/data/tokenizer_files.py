"""Opens ``tokenizer.json``, after checking what could make its reading or its use go on for ever.

The library that reads the file checks its form. Here are bounds on sizes, and the settings that a
file may carry from the script that saved it: truncation, padding, random merges.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import tokenizers

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import is_text
from corl_jax.core.errors import UserError, describe_error

T = TypeVar("T")

MAX_TOKENS = 2**22
"""Ids of a tokenizer; large ones of today have 2**18."""
MAX_TEXT_GROWTH = 256
"""How many times longer its normalizers, pre-tokenizers or decoders may make a text."""
MAX_TEXT_LENGTH = 100_000
"""Characters of a text to encode."""
ADVICE = "take the tokenizer of the original checkpoint"

# The factor by which a step of the library can lengthen a text, where it does not depend on the
# file: a byte becomes a character of its own, one ligature becomes up to 18 characters, spaces are
# put round a character. The table of a step ``Precompiled`` is not read, so its factor is a guess.
GROWTH_OF_TYPE = {"ByteLevel": 4, "NFKC": 18, "NFKD": 18, "NFD": 4, "BertNormalizer": 3}
GROWTH_OF_TYPE |= {"Precompiled": 32, "Metaspace": 2, "Lowercase": 2}


def open_tokenizer(path: pathlib.Path) -> tokenizers.Tokenizer:
    """Reads a ``tokenizer.json``; truncation, padding and a post-processor in it are ignored.

    Raises:
      UserError: it is missing, damaged, beyond a bound, or encodes at random.
    """
    label = f"{path.name} of {str(path.parent)!r}"
    content = JsonObject.read(path, label, ADVICE)
    _check_vocabulary(content)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        _check_growth(content, part)

    # Dropout of merges, and samples instead of the best pieces, are for training a tokenizer's user.
    model = content.block("model")
    for name in ("dropout", "alpha"):
        if model.has(name):
            model.require(name, 0)

    # The bytes that were checked are those that are read.
    tokenizer = call_library(
        lambda: tokenizers.Tokenizer.from_str(path.read_text("utf-8")),
        f"{str(path)!r} cannot be read as a tokenizer",
    )
    return as_plain(tokenizer)


def as_plain(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """``tokenizer`` itself without truncation, padding and post-processor.

    Rows are cut and padded here. A script that calls its tokenizer with ``truncation=True`` and
    saves it leaves the first two in the file. The last one adds special tokens, of which none are
    added here, and may repeat a text.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None  # type: ignore[assignment]
    return tokenizer


def call_library(function: Callable[[], T], failure: str) -> T:
    """The result of a call of the library.

    Raises:
      UserError: the library failed; the text begins with ``failure``.
    """
    # It raises nothing narrower than Exception, and for its own bugs a class that is none.
    try:
        return function()
    except Exception as error:
        raise UserError(f"{failure} ({describe_error(error)}); {ADVICE}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{failure} ({describe_error(error)}); {ADVICE}") from None


def check_encodable(text: str) -> None:
    """Refuses what no tokenizer can encode in reasonable time and memory.

    Raises:
      UserError: a text that is too long, or has halves of surrogate pairs.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise UserError(
            f"a text must have at most {MAX_TEXT_LENGTH} characters; got {len(text)}; shorten it"
        )
    if not is_text(text):
        raise UserError(
            f"{text[:100]!r} must be text; got half of a surrogate pair, which is no character; "
            "write it in UTF-8"
        )


def _check_vocabulary(content: JsonObject) -> None:
    """Raises UserError for too many tokens or too large an id."""
    # Byte pairs and words have ids by token; a Unigram model has a list.
    vocabulary = content.block("model").entries.get("vocab")
    if isinstance(vocabulary, (dict, list)) and len(vocabulary) > MAX_TOKENS:
        content.block("model").refuse("vocab", f"at most {MAX_TOKENS} tokens")
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    # The library checks that they are whole numbers.
    if any(isinstance(token_id, int) and token_id >= MAX_TOKENS for token_id in ids):
        content.block("model").refuse("vocab", f"tokens with ids below {MAX_TOKENS}")
    if content.has("added_tokens"):
        for token in content.blocks("added_tokens"):
            token.integer("id", high=MAX_TOKENS - 1)


def _check_growth(content: JsonObject, part: str) -> None:
    """Raises UserError if the steps of a part can make a text too long.

    A file of a few hundred bytes can have thirty replacements that double a text each.
    """
    growth = 1
    for step in _list_steps(content.optional_block(part)):
        growth *= _step_growth(step)
        if growth > MAX_TEXT_GROWTH:
            content.refuse(
                part, f"steps that make a text at most {MAX_TEXT_GROWTH} times longer together"
            )


def _list_steps(block: JsonObject) -> Iterator[JsonObject]:
    """A step, or the steps of a sequence, also of one within another."""
    for name in ("normalizers", "pretokenizers", "decoders"):
        if block.has(name):
            for step in block.blocks(name):
                yield from _list_steps(step)
    yield block


def _step_growth(step: JsonObject) -> int:
    """The largest factor by which a step lengthens a text."""
    kind = step.optional_text("type")
    if kind == "Replace":
        content = len(step.text("content"))
        pattern = step.optional_block("pattern").entries.get("String")
        # A regular expression may match between any two characters.
        if isinstance(pattern, str) and pattern:
            return max(-(-content // len(pattern)), 1)
        return 1 + content
    if kind == "Prepend":
        return 1 + len(step.text("prepend"))
    return GROWTH_OF_TYPE.get(kind or "", 1)
