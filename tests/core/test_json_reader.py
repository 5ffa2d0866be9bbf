"""JSON of others: what is right is read as Python reads it, all else is one line that names it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corl_jax.core.checks import json_reader
from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import MAX_DEPTH, parse_json, read_json, read_lines
from corl_jax.core.errors import UserError

SETTINGS = settings(deadline=None, derandomize=True, database=None)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def error_of(function, *arguments):
    """The text of the UserError that a call raises, which is one line."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


@SETTINGS
@given(VALUES)
def test_valid_values_are_read_as_they_are(value):
    text = json.dumps(value, ensure_ascii=False).encode()
    assert parse_json(text, "x") == value
    assert parse_json(b"\xef\xbb\xbf" + text, "x") == value


@SETTINGS
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 10_000)
@example(b"")
@example(b"\xff\xfe[\x00]\x00")
def test_nothing_but_a_user_error_is_raised(content):
    try:
        parse_json(content, "x")
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "x is not JSON (Expecting property name"),
        (b"caf\xe9", "x must be text in UTF-8; got byte 0xe9 at position 3. Save the file as"),
        (b'{"a": [1, NaN]}', "a[1] in x must be a finite number; got nan"),
        (b'{"a": {"b": -Infinity}}', "a.b in x must be a finite number; got -inf"),
        (b"[1e999]", "[0] in x must be a finite number; got inf"),
        (b'{"a": 1, "b": 2, "a": 1}', "x is not JSON (it has the key 'a' twice)"),
        (b'{"a": "\\ud800"}', "a in x must be text; got half of a surrogate pair"),
        (b'{"\\udfff": 1}', "x must have texts as keys; got half of a surrogate pair"),
        (b"9" * 301, "an integer has 301 digits; at most 300 are allowed"),
        (
            b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
            f"x must have at most {MAX_DEPTH} objects and lists inside each other; got more",
        ),
    ],
)
def test_what_is_wrong_is_named(content, message):
    assert message in error_of(parse_json, content, "x")


def test_bounds_are_what_they_say():
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(deep, "x") == json.loads(deep)
    assert parse_json(b"9" * 300, "x") == int("9" * 300)
    assert parse_json(b'"\\ud83d\\ude00"', "x") == "\U0001f600"


def test_files_that_are_none(tmp_path, monkeypatch):
    assert "must be a file with JSON; there is none" in error_of(read_json, tmp_path)
    assert "must be a file with JSON; there is none" in error_of(read_json, tmp_path / "no")
    long_path = tmp_path / ("a" * 300)
    assert "cannot be read (OSError: [Errno 36] File name too long" in error_of(
        read_json, long_path
    )

    (tmp_path / "a.json").write_text("[1, 2, 3]")
    monkeypatch.setattr(json_reader, "MAX_FILE_BYTES", 8)
    assert "must have at most 8 bytes; got 9" in error_of(read_json, tmp_path / "a.json")


def test_lines(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xe2\x80\xa8"}\n\n  \r\n[1]\r\n2')
    assert list(read_lines(tmp_path / "a.jsonl")) == [
        (1, b'{"a": "\xe2\x80\xa8"}\n'),
        (4, b"[1]\r\n"),
        (5, b"2"),
    ]
    monkeypatch.setattr(json_reader, "MAX_LINE_BYTES", 6)
    message = error_of(lambda: list(read_lines(tmp_path / "a.jsonl")))
    assert "line 1 of" in message and "must have at most 6 bytes" in message
    assert "cannot be read (IsADirectoryError" in error_of(lambda: list(read_lines(tmp_path)))


EXAMPLE = JsonObject(
    {
        "n": 3,
        "x": 0.5,
        "null": None,
        "flag": True,
        "text": "3",
        "sizes": [1, 2],
        "block": {"inner": {"n": -1, "list": [{"n": 1.5}, 7]}},
    },
    "config.json of 'a'",
    "take another",
)


def test_values_have_their_types():
    assert EXAMPLE.integer("n", low=3, high=3) == 3 and EXAMPLE.integer("absent", 7) == 7
    assert EXAMPLE.number("n") == 3 and EXAMPLE.number("x") == 0.5
    assert EXAMPLE.boolean("flag") and EXAMPLE.text("text") == "3"
    assert EXAMPLE.integers("sizes", low=1, high=2, length=2) == (1, 2)
    assert EXAMPLE.optional_integer("null") is None and EXAMPLE.optional_integer("n") == 3
    assert EXAMPLE.optional_block("absent").entries == {} and not EXAMPLE.has("null")
    assert EXAMPLE.block("block").block("inner").integer("n", low=-1) == -1


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda o: o.integer("text"), "text in config.json of 'a' must be a whole number of at "),
        (lambda o: o.integer("n", low=1, high=2), "n in config.json of 'a' must be a whole number "
                                                  "from 1 to 2; got 3; take another"),
        (lambda o: o.integer("flag"), "flag .* must be a whole number .*; got True"),
        (lambda o: o.integer("x"), "x .* must be a whole number .*; got 0.5"),
        (lambda o: o.integer("null", 3), "null .* must be a whole number .*; got None"),
        (lambda o: o.integer("absent"), "absent .* must be a whole number .*; got nothing"),
        (lambda o: o.number("text"), "text .* must be a number; got '3'"),
        (lambda o: o.number("x", high=0.25), "x .* must be a number from .* to 0.25; got 0.5"),
        (lambda o: o.boolean("n"), "n .* must be true or false; got 3"),
        (lambda o: o.text("sizes"), r"sizes .* must be a text; got \[1, 2\]"),
        (lambda o: o.integers("sizes", low=1, high=2, length=1), "must be a list of 1 to 1 whole"),
        (lambda o: o.integers("sizes", low=2, high=2, length=2), "whole numbers from 2 to 2; got"),
        (lambda o: o.block("n"), "n in .* must be a JSON object; got a number; take another"),
        (lambda o: o.block("null"), "null in .* must be a JSON object; got nothing"),
        (lambda o: o.block("block").block("inner").blocks("list"),
         r"block.inner.list\[1\] in config.json of 'a' must be a JSON object; got a number"),
        (lambda o: o.block("block").block("inner").integer("n"), "block.inner.n in .*; got -1"),
        (lambda o: JsonObject.check([1], "x"), "x must be a JSON object; got a list; get the file"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_named(read, message):
    with pytest.raises(UserError, match=message):
        read(EXAMPLE)


@SETTINGS
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), st.text(max_size=3))
def test_every_getter_returns_its_type_or_raises_a_user_error(entries, name):
    block = JsonObject(entries, "x")
    for read, types in (
        (block.integer, int),
        (block.number, (int, float)),
        (block.text, str),
        (block.boolean, bool),
        (block.optional_integer, (int, type(None))),
        (block.optional_number, (int, float, type(None))),
        (block.optional_text, (str, type(None))),
        (block.block, JsonObject),
        (block.optional_block, JsonObject),
        (block.blocks, list),
        (lambda key: block.integers(key, low=0, high=9, length=2), tuple),
    ):
        try:
            value = read(name)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(value, types) and (value is not True or types is bool)
            assert not isinstance(value, float) or math.isfinite(value)
