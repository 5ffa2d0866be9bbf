"""Reads JSON that others wrote, or that may be damaged: the one place where its form is checked.

In: a file, or the bytes of one. Out: plain values without NaN, infinity, repeated keys, broken text
or deep nesting. Whoever uses them has to check keys and types alone: ``core.checks.json_object`` does.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
from collections.abc import Iterator, Sequence

from corl_jax.core.errors import UserError, describe_error

MAX_FILE_BYTES = 2**28
"""Largest file that is read in one piece; galleries of a run have some megabytes."""
MAX_LINE_BYTES = 2**26
"""Longest line of a file of JSON Lines. Such a file may have any number of lines."""
MAX_DEPTH = 64
"""Objects and lists inside each other."""
MAX_DIGITS = 300
"""Digits of an integer; one with more is beyond any float."""

Key = str | int
"""A key of an object or a position in a list."""

ADVICE = "get the file again"
DEPTH_TEXT = f"must have at most {MAX_DEPTH} objects and lists inside each other; got more"


def read_json(path: pathlib.Path, advice: str = ADVICE) -> object:
    """Reads a file with one JSON value.

    Args:
      path: of the file.
      advice: next step, the end of error texts.

    Raises:
      UserError: there is no such file, it cannot be read, or ``parse_json`` refuses its content.
    """
    label = repr(str(path))
    try:
        if not path.is_file():
            raise UserError(f"{label} must be a file with JSON; there is none. Check the path")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{label} must have at most {MAX_FILE_BYTES} bytes; got {size}; {advice}"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{label} cannot be read ({describe_error(error)}); {advice}") from None
    return parse_json(content, label, advice)


def read_lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    r"""Number and bytes of each line of a file of JSON Lines; blank lines are left out.

    Only ``\n`` ends a line: texts may contain other separators, such as U+2028.

    Raises:
      UserError: the file cannot be read, or a line is too long.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"line {number} of {str(path)!r} must have at most {MAX_LINE_BYTES} bytes; "
                        "got more; write one JSON object per line"
                    )
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({describe_error(error)}); check the file"
        ) from None


def parse_json(content: bytes, label: str, advice: str = ADVICE) -> object:
    """The JSON value in ``content``, which errors call ``label``.

    Raises:
      UserError: it is not UTF-8, not JSON, or not what the module promises.
    """
    # The mark U+FEFF, with which some editors begin a file, means nothing in UTF-8.
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label} must be text in UTF-8; got byte 0x{content[error.start]:02x} at position "
            f"{error.start}. Save the file as UTF-8"
        ) from None

    # ValueError: not JSON, a repeated key, or too many digits.
    try:
        value: object = json.loads(
            text, object_pairs_hook=_unique_keys, parse_int=_parse_integer, parse_constant=float
        )
    except ValueError as error:
        raise UserError(f"{label} is not JSON ({error}); {advice}") from None
    except RecursionError:
        raise UserError(f"{label} {DEPTH_TEXT}; {advice}") from None

    fault = _find_fault(value, ())
    if fault is not None:
        keys, expectation = fault
        where = f"{show_path(keys)} in {label}" if keys else label
        raise UserError(f"{where} {expectation}; {advice}")
    return value


def show_path(keys: Sequence[Key]) -> str:
    """Keys and positions as one text, ``text_config.layers[3].type``; a long one is cut."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    # Escaped, since keys of a damaged file can contain line ends.
    text = text.removeprefix(".").encode("unicode_escape").decode("ascii")
    return text if len(text) <= 100 else text[:100] + "..."


def show_value(value: object) -> str:
    """A JSON value on one line of moderate length, for error texts."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return f"a list of {len(value)}"
    # Ten values are enough to recognise a list.
    text = repr(value[:10] if isinstance(value, list) else value)
    return text if len(text) <= 80 else text[:80] + "..."


def is_text(text: str) -> bool:
    """Whether all of ``text`` are characters; half of a surrogate pair, for example, is none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    # Which of two values counts depends on the program that reads them.
    if len(entries) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise ValueError(f"it has the key {show_value(counts.most_common(1)[0][0])} twice")
    return entries


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)


def _find_fault(value: object, keys: tuple[Key, ...]) -> tuple[tuple[Key, ...], str] | None:
    """Where ``value`` breaks a promise of the module and what it must be; None if it keeps them."""
    if isinstance(value, float) and not math.isfinite(value):
        return keys, f"must be a finite number; got {value}"
    if isinstance(value, str) and not is_text(value):
        return keys, "must be text; got half of a surrogate pair, which is no character"
    if not isinstance(value, (dict, list)):
        return None
    if len(keys) >= MAX_DEPTH:
        return keys, DEPTH_TEXT

    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str) and not is_text(key):
            return keys, "must have texts as keys; got half of a surrogate pair in one"
        # Most values are right. A call for each of them would take most of the time.
        kind = type(item)
        if kind is int or (kind is float and math.isfinite(item)) or item is None or kind is bool:
            continue
        if kind is str and item.isascii():
            continue
        if (fault := _find_fault(item, (*keys, key))) is not None:
            return fault
    return None
