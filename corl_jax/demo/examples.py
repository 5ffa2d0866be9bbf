"""Prompts and questions to begin with, as far as a policy's tokenizer has their words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.examples import example
from corl_jax.data.text_tokenizer import TextTokenizer

FEW = 5
"""How many examples are offered."""
GENERAL_PROMPTS = (
    "a red bicycle leaning against a white wall",
    "two dogs running on a beach at sunset",
    "a bowl of oranges to the left of a blue cup",
    "the word OPEN on a wooden sign",
)
GENERAL_QUESTIONS = (
    "Describe this picture in one sentence.",
    "How many objects are there?",
    "What is in the foreground, and what colour is it?",
)
LONGEST_CAPTION = 45
"""Captions of more characters would not fit on a button at phone width."""


def prompt_examples(tokenizer: TextTokenizer) -> list[str]:
    """Prompts that the tokenizer knows: general ones, or captions of the embedded world."""
    return _first(GENERAL_PROMPTS, tokenizer) or _first(_captions(), tokenizer)


def question_examples(tokenizer: TextTokenizer) -> list[str]:
    """Questions that the tokenizer knows, one of each kind of the embedded world."""
    return _first(GENERAL_QUESTIONS, tokenizer) or _first(_questions(), tokenizer)


def is_known(text: str, tokenizer: TextTokenizer) -> bool:
    """Whether a tokenizer of a fixed list of words has all words of ``text``; others have."""
    try:
        tokenizer.encode(text)
    except UserError:
        return False
    return True


def _first(texts: Iterable[str], tokenizer: TextTokenizer) -> list[str]:
    return [text for text in texts if is_known(text, tokenizer)][:FEW]


def _captions() -> list[str]:
    """Held-out captions, one for each number of words and way to begin; short ones first."""
    captions: dict[tuple[int, str], str] = {}
    for index in range(40):
        caption = example("test", index).prompt
        words = caption.split()
        if len(caption) <= LONGEST_CAPTION:
            captions.setdefault((len(words), words[0]), caption)
    return sorted(captions.values(), key=len)


def _questions() -> Iterator[str]:
    """Held-out questions, one of each kind."""
    kinds = set()
    for index in range(40):
        record = example("test", index)
        if record.kind not in kinds:
            kinds.add(record.kind)
            yield record.question
