"""One spelling per character: Unicode's NFKC, one table of dashes, quotes and marks."""

from __future__ import annotations

import re
import unicodedata

# Characters that show nothing: soft hyphens, zero-width spaces, directions, variants of emoji.
INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe0e\ufe0f\ufeff\u20e3]"
)
# NFKC would write "x²" as "x2", "3½" as "31⁄2" and "45º" as "45o": these are read first.
SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ]+")
SUBSCRIPTS = re.compile(r"([₀₁₂₃₄₅₆₇₈₉]+)(?=\d)")
FRACTIONS = re.compile("(?<=\\d)(?=[¼½¾⅐-⅞↉])")
BEFORE_NFKC = str.maketrans(
    {"º": "°", "˚": "°", "´": "'", "″": '"', "\u2028": "\n", "\u0085": "\n"}
)

# What NFKC keeps apart but readers do not.
MARKS = {
    "-": "‐‑‒–—―−﹘﹣－⁃˗➖",
    '"': "“”„‟«»‹›「」『』《》〝〞",
    "'": "‘’‚‛ʼ′",
    "/": "⁄∕",
    ":": "∶",
    ".": "。।",
    ",": "、،",
    ";": "؛",
    "?": "؟",
}
AFTER_NFKC = str.maketrans({char: mark for mark, chars in MARKS.items() for char in chars})
FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")


def canonical_text(text: str) -> str:
    """The text in Unicode's NFKC with one character for all dashes, quotes, and so on.

    Full-width and styled letters become plain ones, accents are composed, and digits of all
    scripts become 0 to 9. Superscripts become ``^2``, fractions ``1/2``, and what shows nothing
    goes. Twice gives the same as once.
    """
    # Most answers have no other characters.
    if text.isascii():
        return text

    # Meaning that NFKC would lose is written out before.
    text = unicodedata.normalize("NFC", text)
    text = INVISIBLE.sub("", text).translate(BEFORE_NFKC)
    text = SUPERSCRIPTS.sub(r"^\g<0>", text)
    text = SUBSCRIPTS.sub(r"\1 ", text)
    text = FRACTIONS.sub(" ", text)

    text = unicodedata.normalize("NFKC", text).translate(AFTER_NFKC)
    return FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
