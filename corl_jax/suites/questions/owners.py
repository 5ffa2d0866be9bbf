"""The files of the benchmarks' owners: what each of their columns is in a ``Question``.

One function per layout, from the cells of a row to a question. Sources: AoiDragon/POPE,
MMMU-Benchmark/MMMU, MMStar-Benchmark/MMStar, BradyFU's MME, lupantech/MathVista,
ZrrSkywalker/MathVerse, mathllm/MATH-V, Yijia-Xiao/LogicVista, We-Math/We-Math, yuweihao/MM-Vet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from corl_jax.data.sources.pictures import Picture
from corl_jax.suites.questions.fields import Cells, lettered, picture_name, split_options
from corl_jax.suites.questions.question import Question
from corl_jax.suites.questions.rows import KEY

MATHVISTA_HINTS = {
    "multi_choice": "and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.",
    "float1": "requiring a floating-point number with one decimal place and provide the final "
    "value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float2": "requiring a floating-point number with two decimal places and provide the final "
    "value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], "
    "[1.2, 1.3, 1.4], at the end.",
}
"""How a question of MathVista says what its answer must look like (``build_query.py``)."""


def read_pope(cells: Cells) -> Question:
    """``question_id``, ``image`` (a file), ``text``, ``label`` (yes or no)."""
    return _question(
        cells,
        cells.required_text("question_id"),
        cells.required_text("text"),
        cells.text("label"),
        (cells.picture("image"),),
    )


def read_mmmu(cells: Cells) -> Question:
    """``id``, ``question``, ``options``, ``answer``, ``image_1`` and on; ids name the subject."""
    name = cells.required_text("id")
    return _question(
        cells,
        name,
        cells.required_text("question"),
        cells.text("answer"),
        cells.numbered_pictures() or (cells.picture("image"),),
        lettered(cells.list_of("options")),
        cells.text("subject") or "_".join(name.split("_")[1:-1]),
    )


def read_mmmu_pro_vision(cells: Cells) -> Question:
    """MMMU-Pro with the question in the picture: ``id``, ``image``, ``options``, ``answer``."""
    return _question(
        cells,
        cells.required_text("id"),
        "",
        cells.text("answer"),
        (cells.picture("image"),),
        lettered(cells.list_of("options")),
        cells.text("subject"),
    )


def read_mmstar(cells: Cells) -> Question:
    """``index``, ``question`` with its options behind ``Options:``, ``image``, ``answer``."""
    text, _, options = cells.required_text("question").partition("Options:")
    choices = split_options(options.strip())
    if not choices:
        cells.refuse("question", "a question and its options behind 'Options:'")
    return _question(
        cells,
        cells.required_text("index"),
        text.strip(),
        cells.text("answer"),
        (cells.picture("image"),),
        choices,
        cells.text("category"),
    )


def read_mme(cells: Cells) -> Question:
    """``question``, ``answer`` (Yes or No), ``category``, the picture as path or bytes.

    The table of the hub has one id for both questions about a picture.
    """
    answer = cells.text("answer")
    is_folder = cells.has("image_path")
    name = cells.required_text("index" if is_folder else "question_id")
    return _question(
        cells,
        name if is_folder else f"{name}/{answer}",
        cells.required_text("question"),
        answer,
        (cells.picture("image_path" if is_folder else "image"),),
        category=cells.required_text("category"),
    )


def read_mathvista(cells: Cells) -> Question:
    """``question``, ``choices``, ``unit``, ``precision``, ``question_type``, ``answer_type``."""
    choices = lettered(cells.list_of("choices"))
    return _question(
        cells,
        cells.required_text("pid" if cells.has("pid") else KEY),
        cells.text("query") or _mathvista_query(cells, choices),
        cells.text("answer"),
        (cells.picture("decoded_image" if cells.has("decoded_image") else "image"),),
        choices,
        str(cells.mapping("metadata").get("task", "")),
        facts=("question_type", "answer_type"),
    )


def _mathvista_query(cells: Cells, choices: Mapping[str, str]) -> str:
    """The hint and the question, as ``query.json`` has them without examples."""
    kind = cells.required_text("question_type")
    if kind != "multi_choice":
        kind = cells.required_text("answer_type")
        kind += cells.text("precision") if kind == "float" else ""
    if kind not in MATHVISTA_HINTS:
        cells.refuse("answer_type", "integer, list, or float with a precision of 1 or 2")

    unit = f" (Unit: {cells.text('unit')})" if cells.has("unit") else ""
    lines = [
        f"Hint: Please answer the question {MATHVISTA_HINTS[kind]}",
        f"Question: {cells.required_text('question')}{unit}",
    ]
    if choices:
        lines += ["Choices:", *(f"({letter}) {text}" for letter, text in choices.items())]
    return "\n".join(lines)


def read_mathverse(cells: Cells) -> Question:
    """``sample_index``, ``problem_index``, ``problem_version``, ``query_wo``, ``answer``."""
    return _question(
        cells,
        cells.required_text("sample_index"),
        cells.required_text("query_wo"),
        cells.text("answer"),
        (cells.picture("image"),),
        category=cells.required_text("problem_version"),
        # The versions of a problem are not independent of each other.
        cluster=cells.required_text("problem_index"),
        facts=("question_type", "question_for_eval"),
    )


def read_mathvision(cells: Cells) -> Question:
    """``id``, ``question``, ``options``, ``answer``, ``image``, ``subject``."""
    return _question(
        cells,
        cells.required_text("id"),
        cells.required_text("question"),
        cells.text("answer"),
        (cells.picture("decoded_image" if cells.has("decoded_image") else "image"),),
        lettered(cells.list_of("options")),
        cells.text("subject"),
    )


def read_logicvista(cells: Cells) -> Question:
    """``imagename``, ``question``, ``answer`` (letters), ``skill``; keys are ids."""
    return _question(
        cells,
        cells.required_text(KEY),
        cells.required_text("question"),
        cells.text("answer"),
        (_picture_in_images(cells),),
        category=", ".join(cells.list_of("skill")),
    )


def read_wemath(cells: Cells) -> Question:
    """``ID``, ``key`` (``2steps_1``, ...), ``question``, ``option``, ``answer``, ``image_path``."""
    choices = split_options(cells.required_text("option"))
    if not choices:
        cells.refuse("option", "options such as 'A. 1; B. 2'")
    problem, key = cells.required_text("ID"), cells.required_text("key")
    return _question(
        cells,
        f"{problem}/{key}",
        cells.required_text("question"),
        cells.text("answer"),
        (cells.picture("image_path"),),
        choices,
        key,
        # A problem of two steps and one of three steps may have the same number.
        cluster=f"{key.partition('_')[0]}/{problem}",
    )


def read_mmvet(cells: Cells) -> Question:
    """``imagename``, ``question``, ``answer``, ``capability``; keys are ids."""
    return _question(
        cells,
        cells.required_text(KEY),
        cells.required_text("question"),
        cells.text("answer"),
        (_picture_in_images(cells),),
        category=",".join(cells.list_of("capability")),
    )


def _picture_in_images(cells: Cells) -> Picture:
    """The picture ``imagename``, which lies in a folder ``images`` beside the file."""
    images = cells.folder / "images"
    inside = dataclasses.replace(cells, folder=images if images.is_dir() else cells.folder)
    return inside.picture("imagename")


def _question(
    cells: Cells,
    question_id: str,
    text: str,
    answer: str,
    pictures: tuple[Picture, ...],
    choices: Mapping[str, str] = {},
    category: str = "",
    cluster: str = "",
    facts: Sequence[str] = (),
) -> Question:
    """A question; ``cluster`` is that of its pictures unless another one is given."""
    return Question(
        id=question_id,
        cluster=cluster or "+".join(picture_name(picture) for picture in pictures),
        text=text,
        choices=choices,
        hint="",
        answer=answer,
        category=category,
        pictures=pictures,
        facts={column: cells.text(column) for column in facts},
        location=cells.row.location,
    )
