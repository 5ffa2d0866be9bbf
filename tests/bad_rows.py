"""Kinds of rows that people have in their data sets, and what becomes of each.

docs/data.md shows the names and the reasons; ``test_bad_rows.py`` holds both together.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

GOOD = {
    "prompt": "a red circle",
    "real_image": "good.png",
    "qa_problem": "What is it?",
    "qa_solution": "<answer>a circle</answer>",
    "qa_type": "OE",
}
CHOICE = GOOD | {"qa_problem": "What?\nA. red\nB. blue", "qa_solution": "B", "qa_type": "MC"}
LONGEST_PROMPT, LONGEST_QUESTION = 100, 200


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of row.

    Attributes:
      name: what is odd about it, as the docs say it.
      line: bytes of a line, or columns of a row.
      reason: part of the error about it; "" if it is read.
      expected: fields of the record that it becomes, where it is read.
    """

    name: str
    line: bytes | dict
    reason: str = ""
    expected: dict = dataclasses.field(default_factory=dict)

    def encode(self, row_id: str) -> bytes:
        """The line, with an id where it can have one."""
        if isinstance(self.line, bytes):
            return self.line
        return json.dumps({"id": row_id} | self.line, ensure_ascii=False).encode()


def _with(row: dict, **changes: object) -> dict:
    return row | changes


REJECTED = (
    # The line.
    Kind("a line that was cut off", json.dumps(GOOD).encode()[:60], "is not JSON"),
    Kind("an empty object", b"{}", "prompt must be a text of characters, not empty"),
    Kind("a list in place of an object", b"[1, 2]", "must be a JSON object; got a list"),
    Kind("a key that is there twice", b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' twice"),
    Kind("NaN or infinity", b'{"prompt": "a", "score": NaN}', "must be a finite number"),
    Kind("bytes that are not UTF-8", b'{"prompt": "un caf\xe9"}', "text in UTF-8; got byte 0xe9"),
    Kind("half a surrogate pair", b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
    Kind("a thousand lists inside each other", b"[" * 1000 + b"]" * 1000, "at most 64 objects"),
    Kind("a number of a thousand digits", b'{"x": ' + b"9" * 1000 + b"}", "has 1000 digits"),
    # Texts.
    Kind("an id that another row has", _with(GOOD, id="twice"), "of an earlier row"),
    Kind("an id that is an object", _with(GOOD, id={"a": 1}), "id must be a text, or a list of"),
    Kind("a prompt that is an object", _with(GOOD, prompt={"en": "a"}), "prompt must be a text"),
    Kind("a prompt that is true", _with(GOOD, prompt=True), "prompt must be a text"),
    Kind("no prompt, in the image task", _with(GOOD, prompt=None), "the image task needs a prompt"),
    Kind("a prompt of spaces", _with(GOOD, prompt=" \t "), "the image task needs a prompt"),
    Kind("no question, but an answer", _with(GOOD, qa_problem=None), "question must be a text"),
    Kind("a question of spaces", _with(GOOD, qa_problem="\u3000"), "question must be a text"),
    Kind(
        "no question and no answer, in the text task",
        _with(GOOD, qa_problem=None, qa_solution=None),
        "the text task needs a question",
    ),
    Kind("a question without an answer", _with(GOOD, qa_solution=None), "answer must be a text"),
    Kind("a prompt that is too long", _with(GOOD, prompt="a" * 300), "its prompt has"),
    Kind("a question that is too long", _with(GOOD, qa_problem="a" * 900), "its question has"),
    Kind(
        "a special token of the model in a prompt",
        _with(GOOD, prompt="a <begin_of_image>"),
        "has the special token <begin_of_image>",
    ),
    Kind(
        "a special token of the model in a question",
        _with(GOOD, qa_problem="<image_placeholder> what?"),
        "has the special token <image_placeholder>",
    ),
    Kind(
        "a question about several pictures",
        _with(GOOD, qa_problem="<image> or <image>?"),
        "must ask about one picture; got 2",
    ),
    # Answers.
    Kind("an empty answer", _with(GOOD, qa_solution="<answer> </answer>"), "answer must be a text"),
    Kind("an answer tag without its end", _with(GOOD, qa_solution="a <answer> b"), "solution must"),
    Kind("an answer that is true", _with(GOOD, qa_solution=True), "must be a text, or a list of"),
    Kind("several answers that differ", _with(GOOD, qa_solution=["a", "b"]), "or a list of one"),
    Kind(
        "an unknown type of question", _with(GOOD, qa_type="quiz"), "got 'quiz'. Write one of mc,"
    ),
    Kind("yes or no, answered otherwise", _with(GOOD, qa_type="YN"), "answer must be yes or no"),
    Kind("multiple choice without choices", _with(GOOD, qa_type="MC"), "must have two or more"),
    Kind(
        "multiple choice with one choice",
        _with(CHOICE, qa_problem="What?\nA. red", qa_solution="A"),
        "must have two or more choices",
    ),
    Kind("a letter behind the last choice", _with(CHOICE, qa_solution="C"), "got 'C'"),
    Kind("an answer that is no choice", _with(CHOICE, qa_solution="green"), "got 'green'"),
    Kind("two letters", _with(CHOICE, qa_solution="A or B"), "got 'A or B'"),
    Kind("choices that are a number", _with(CHOICE, choices=2), "choices must be a list of texts"),
    Kind("choices that are a text", _with(CHOICE, choices="red, blue"), "choices must be a list"),
    Kind(
        "choices with keys that are no letters", _with(CHOICE, choices={"x": "a"}), "the keys A, B"
    ),
    Kind("choices that are lists", _with(CHOICE, choices=[["a", "b"], ["c", "d"]]), "list of one"),
    Kind(
        "choices beside an open question",
        _with(GOOD, choices=["red", "blue"]),
        "an open ended question must have no choices",
    ),
    Kind(
        "the position of a choice that is not there",
        _with(CHOICE, choices=["red", "blue"], qa_solution=None, answer=2),
        "a position from 0 to 1",
    ),
    Kind(
        "a number that is one choice by position and another by text",
        _with(CHOICE, choices=["1", "0"], qa_solution=None, answer=1),
        "the text of one and the position of another",
    ),
    # Where the picture is.
    Kind(
        "no picture, in the text task", _with(GOOD, real_image=None), "the text task needs a pict"
    ),
    Kind("a picture that does not exist", _with(GOOD, real_image="0.png"), "which does not exist"),
    Kind("a folder in place of a picture", _with(GOOD, real_image="folder"), "does not exist"),
    Kind(
        "an address", _with(GOOD, real_image="http://a/b.png"), "a file on this machine; got 'http"
    ),
    Kind(
        "a picture in base64", _with(GOOD, real_image="data:image/png;base64,iV"), "a file on this"
    ),
    Kind("NUL in a path", _with(GOOD, real_image="a\0.png"), "must be a path that can be opened"),
    Kind("a path that is too long", _with(GOOD, real_image="a" * 300), "at most 255 bytes"),
    Kind("a picture that is a number", _with(GOOD, real_image=3), "must be a picture, as its path"),
    Kind(
        "an object without a picture",
        _with(GOOD, real_image={"bytes": None, "path": None}),
        "without 'bytes' and without a text 'path'",
    ),
    Kind("two pictures", _with(GOOD, real_image=["good.png", "good.png"]), "one picture; got 2"),
    # What is in it.
    Kind(
        "an empty picture", _with(GOOD, real_image="empty.png"), "is not a picture in a known for"
    ),
    Kind("a picture that was cut off", _with(GOOD, real_image="cut.png"), "cannot be read"),
    Kind(
        "a page in place of a picture",
        _with(GOOD, real_image="page.jpg"),
        "is not a picture in a known",
    ),
    Kind("a drawing (SVG)", _with(GOOD, real_image="drawing.svg"), "is not a picture in a known"),
    Kind("a picture of 32-bit integers", _with(GOOD, real_image="int32.tif"), "a known range of"),
    Kind("floats beyond 0 and 1", _with(GOOD, real_image="float.tif"), "float pixels from 0 to 1"),
    Kind("a decompression bomb", _with(GOOD, real_image="bomb.png"), "must have at most 89478485"),
)
"""Rows that are named with their reason."""

READ = (
    Kind("a prompt that is a number", _with(GOOD, prompt=3), expected={"prompt": "3"}),
    Kind("columns that no one knows", _with(GOOD, colour=[{}]), expected={"answer": "a circle"}),
    Kind("optional columns that are null", _with(GOOD, cls_problem=None, kind=None)),
    Kind("separators of Unicode in a text", _with(GOOD, prompt="a\u2028b\u0085c")),
    Kind("an id that is a number", _with(GOOD, id=12), expected={"id": "12"}),
    Kind(
        "a path in an object, as datasets write it",
        _with(GOOD, real_image={"bytes": None, "path": "good.png"}),
    ),
    Kind("a list of one picture", _with(GOOD, real_image=["good.png"])),
    Kind(
        "the mark <image> in a question",
        _with(GOOD, qa_problem="<image>\nWhat is it?"),
        expected={"question": "What is it?"},
    ),
    Kind("a list of one answer", _with(GOOD, qa_solution=["a circle"]), expected={"qa_type": "OE"}),
    Kind("an answer without tags", _with(GOOD, qa_solution=" two "), expected={"answer": "two"}),
    Kind("an answer that is a number", _with(GOOD, qa_solution=3.5), expected={"answer": "3.5"}),
    Kind(
        "no type of question, without choices",
        _with(GOOD, qa_type=None),
        expected={"qa_type": "OE"},
    ),
    Kind(
        "no type of question, with choices", _with(CHOICE, qa_type=None), expected={"answer": "B"}
    ),
    Kind(
        "choices in a column of their own",
        _with(CHOICE, qa_problem="What?", choices=["red", "blue"]),
        expected={"question": "What?\nOptions:\nA. red\nB. blue", "answer": "B"},
    ),
    Kind(
        "choices by letter",
        _with(CHOICE, qa_problem="What?", choices={"A": "red", "B": "blue"}),
        expected={"choices": ("red", "blue")},
    ),
    Kind(
        "the position of a choice, from 0",
        _with(CHOICE, choices=["red", "blue"], qa_solution=None, answer=1),
        expected={"answer": "B"},
    ),
    Kind(
        "yes or no", _with(GOOD, qa_type="yes/no", qa_solution="Yes."), expected={"qa_type": "OE"}
    ),
    *(
        Kind(
            f"multiple choice written {text!r}",
            _with(CHOICE, qa_type=text),
            expected={"answer": "B"},
        )
        for text in ("mc", "MCQ", "multiple_choice", "Multiple-Choice", "multi choice")
    ),
    *(
        Kind(f"open ended written {text!r}", _with(GOOD, qa_type=text), expected={"qa_type": "OE"})
        for text in ("oe", "open", "open-ended", "OEQ", "free_form")
    ),
    *(
        Kind(
            f"choices written {first!r}",
            _with(CHOICE, qa_problem=f"What?\n{first}\n{second}"),
            expected={"choices": ("red", "blue")},
        )
        for first, second in (
            ("A) red", "B) blue"),
            ("(A) red", "(B) blue"),
            ("A: red", "B: blue"),
            ("  A. red", "  B. blue"),
            ("Options:\nA. red", "B. blue"),
            ("Choices:\n(A) red", "(B) blue"),
        )
    ),
    *(
        Kind(
            f"a choice answered {text!r}", _with(CHOICE, qa_solution=text), expected={"answer": "B"}
        )
        for text in ("B.", "(B)", "b", "B. blue", "blue", "<think>x</think><answer>B</answer>")
    ),
    Kind("a picture that lies on its side (EXIF)", _with(GOOD, real_image="exif.jpg")),
    Kind("a transparent picture", _with(GOOD, real_image="transparent.png")),
    Kind("a picture of 16 bits", _with(GOOD, real_image="grey16.png")),
    Kind("a picture in CMYK", _with(GOOD, real_image="cmyk.jpg")),
    Kind("an animation", _with(GOOD, real_image="animation.gif")),
    Kind("a picture of one pixel", _with(GOOD, real_image="pixel.png")),
    Kind("a picture with a wrong suffix", _with(GOOD, real_image="png_in_truth.jpg")),
)
"""Rows that are read."""


def write_pictures(folder) -> None:
    """The pictures that the rows name."""

    def encode(image: Image.Image, format_: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getvalue()

    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(pixels)
    good = encode(image, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "folder").mkdir()
    files = {
        "good.png": good,
        "png_in_truth.jpg": good,
        "cut.png": good[: len(good) // 2],
        "empty.png": b"",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "int32.tif": encode(Image.fromarray(pixels[..., 0].astype(np.int32)), "TIFF"),
        "float.tif": encode(Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF"),
        "bomb.png": _bomb(),
        "exif.jpg": encode(image, "JPEG", exif=exif),
        "transparent.png": encode(image.convert("RGBA"), "PNG"),
        "grey16.png": encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 256), "PNG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "animation.gif": encode(image, "GIF", save_all=True, append_images=[image]),
        "pixel.png": encode(image.crop((0, 0, 1, 1)), "PNG"),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _bomb() -> bytes:
    """A PNG of a few bytes with a hundred million pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + crc
    return content
