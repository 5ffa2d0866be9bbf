"""The words of an answer, and whether two texts say the same.

Punctuation goes only where it can carry no meaning: at the ends of sentences, between the items of
a list, and in pairs around words. Signs, relations, roots, units and all other symbols stay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from corl_jax.data.answers.characters import canonical_text
from corl_jax.data.answers.number_words import as_digits
from corl_jax.data.answers.wrappers import is_tuple, unwrap

ARTICLES = ("a", "an", "the")
MAX_NESTING = 20
"""Brackets inside brackets that are removed around words."""

# A whole text that is one number: "1,000", "1 000", "1'000", "1{,}000", "- 3", "2.50".
WHOLE_NUMBER = re.compile(
    r"(-?) ?([0-9]{1,3}(,|\{,\}|\\,|[ '_])[0-9]{3}(?:\3[0-9]{3})*|[0-9]+)(\.[0-9]+)?"
)
# "1,000" in a text, but not in "1,0000" or "1,000,00".
THOUSANDS = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])")
# ".5"
BARE_DECIMALS = re.compile(r"(?<![\w.])\.(?=[0-9])")
QUOTED = re.compile(r"""(?<!\w)(["'])((?:(?!\1).)*)\1(?!\w)""", re.S)
# "(red)", "[red, green]": brackets around words, which are attached to nothing.
LETTERS = r"""((?:[^\W\d_]|[\s,;.'"&-])*)"""
BRACKETED = re.compile(rf"(?<!\w)(?:\({LETTERS}\)|\[{LETTERS}\]|\{{{LETTERS}\}})(?!\w)")

LETTER = r"[^\W\d_]"
NO_NUMBER = r"(?<![0-9])(?<![0-9] )"
TOKEN = re.compile(
    # A number, or a word: "3.5", "don't", "t-shirt", "u.s". "4cm" has both.
    rf"(?P<word>[0-9]+(?:\.[0-9]+)*|{LETTER}+(?:[-'.]{LETTER}+)*)"
    # "!x" is not x.
    r"|(?P<negation>(?<![\w)\]}])!(?=\w))"
    # A colon counts in "3:00", a quote in 5' and 5", an exclamation mark in "5!" and "n!".
    rf"|(?P<pause>[,;.¿¡]|\?!*|{NO_NUMBER}:|:(?! ?[0-9])|{NO_NUMBER}[\"']"
    rf"|(?<![0-9)\]}}])(?<![0-9)\]}}] )(?<!\b{LETTER})(?<!\b{LETTER} )!+(?!=))"
    # Every other sign stays.
    r"|(?P<symbol>[<>!]=|\S)"
)
SPELLINGS = {"≤": "<=", "≥": ">=", "≠": "!=", "⩽": "<=", "⩾": ">="}
"""Symbols that are also written with several signs."""


class TextForms(NamedTuple):
    """A text in the forms in which it is compared.

    Attributes:
      exact: canonical characters and single spaces.
      number: the digits, if the text is one number; otherwise None.
      words: as ``normalize_answer`` gives them.
    """

    exact: str
    number: str | None
    words: str

    def same_as(self, other: TextForms) -> bool:
        """Whether both say the same: exactly, as one number, or in the same words."""
        same_number = self.number is not None and self.number == other.number
        return self.exact == other.exact or same_number or self.words == other.words


def text_forms(text: str) -> TextForms:
    """The forms of ``text``."""
    exact = " ".join(canonical_text(text).split())
    return TextForms(exact, plain_number(exact), normalize_answer(exact))


def same_text(text: str, other: str) -> bool:
    """Whether two texts say the same, see ``TextForms.same_as``."""
    return text_forms(text).same_as(text_forms(other))


def plain_number(text: str) -> str | None:
    """The digits of a text that is one number; otherwise None.

    They have no separators of thousands and no zeros at the end of decimals.
    """
    match = WHOLE_NUMBER.fullmatch(unwrap(text))
    if match is None:
        return None
    sign, digits, _, decimals = match.groups()
    return sign + re.sub(r"[^0-9]", "", digits) + (decimals or "").rstrip("0").rstrip(".")


def normalize_answer(text: str) -> str:
    """The words of a text, with single spaces. A text that has none stays as it is.

    Differs only where two texts differ in more than case, articles, wrappers, number words and
    punctuation without a meaning.
    """
    text = canonical_text(text)
    return " ".join(answer_words(text) or text.split())


def answer_words(text: str) -> list[str]:
    """The words, numbers and symbols of a text, in lower case and without articles."""
    text = unwrap(canonical_text(text))
    # Folding may leave characters that fold once more.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text.casefold())

    text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = BARE_DECIMALS.sub("0.", text)
    # Full stops take the place of quotes and brackets: "(A) blue" is not "a blue".
    text = QUOTED.sub(r" . \2 . ", text)
    text = _without_brackets(text)
    return as_digits(_without_pauses(TOKEN.finditer(text)))


def _without_brackets(text: str) -> str:
    """The text without brackets around words, from the inside outwards."""

    def content(match: re.Match[str]) -> str:
        words = next(group for group in match.groups() if group is not None)
        return match[0] if is_tuple(words) or not words.strip() else f" . {words} . "

    for _ in range(MAX_NESTING):
        shorter = BRACKETED.sub(content, text)
        if shorter == text:
            break
        text = shorter
    return text


def _without_pauses(tokens: Iterable[re.Match[str]]) -> list[str]:
    """The tokens without punctuation, and without articles before a word."""
    words: list[str] = []
    following = ""
    for token in reversed(list(tokens)):
        text, kind = token[0], token.lastgroup
        # "vitamin A", "A, B" and "a + b" have no article, and "a" alone is an answer.
        is_word = len(following) > 1 or following.isdigit()
        if text in ARTICLES and (is_word or (text == "the" and following)):
            continue
        if kind != "pause":
            words.append("¬" if kind == "negation" else SPELLINGS.get(text, text))
        following = text if kind == "word" else ""
    return words[::-1]
