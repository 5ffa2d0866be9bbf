"""Answers in the files that the benchmarks' own evaluators read.

* ``SUITE.xlsx`` for VLMEvalKit: the rows of its table without pictures, and ``prediction``
  (``vlmeval.dataset`` evaluates such a file with a judge of the user's choice).
* ``mmvet.json`` for MM-Vet's evaluator: id to answer.
* ``mathvista.json`` and ``mathverse.json``: the owner's entries with ``response`` or ``model_answer``.
* ``pope.jsonl`` for POPE's: ``question`` and ``answer`` in the order of its file.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically
from corl_jax.sampling.policy import Answer
from corl_jax.suites.questions.question import Question

MAX_CELL = 32767
"""Characters of a cell in a workbook."""


def check_workbooks() -> None:
    """Raises UserError where what writes workbooks is not installed."""
    if importlib.util.find_spec("openpyxl") is None:
        raise UserError(
            "corl evaluate writes a workbook for VLMEvalKit's judges, which needs openpyxl; "
            "pip install 'corl_jax[suites]'"
        )


def write_dumps(
    folder: pathlib.Path, suite: str, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
    """Writes the workbook, and the owner's file where the owner has an evaluator.

    Raises:
      UserError: they cannot be written.
    """
    _write_workbook(folder / f"{suite}.xlsx", questions, answers)
    pairs = list(zip(questions, answers, strict=True))
    if suite == "mmvet":
        _write_json(folder / "mmvet.json", {q.id: answer.text for q, answer in pairs})
    elif suite == "mathvista":
        entries = {
            q.id: {"pid": q.id, "query": q.text, "answer": q.answer, "response": answer.text}
            | {name: q.facts[name] for name in ("question_type", "answer_type") if name in q.facts}
            | {"choices": list(q.choices.values())}
            for q, answer in pairs
        }
        _write_json(folder / "mathvista.json", entries)
    elif suite == "mathverse":
        rows = [
            {"sample_index": q.id, "problem_version": q.category, "answer": q.answer}
            | {"question_for_eval": q.facts.get("question_for_eval", q.text)}
            | {"model_answer": answer.text}
            for q, answer in pairs
        ]
        _write_json(folder / "mathverse.json", rows)
    elif suite == "pope":
        lines = [json.dumps({"question": q.text, "answer": answer.text}) for q, answer in pairs]
        write_atomically(folder / "pope.jsonl", "".join(f"{line}\n" for line in lines))


def _write_json(path: pathlib.Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _write_workbook(
    path: pathlib.Path, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
    check_workbooks()
    import openpyxl
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    rows = [
        {"index": q.id, "question": q.text, **q.choices, "hint": q.hint, "answer": q.answer}
        | {"category": q.category}
        | {name: value for name, value in q.facts.items() if name != "index"}
        | {"prediction": answer.text}
        for q, answer in zip(questions, answers, strict=True)
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))

    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    sheet.append(columns)
    for row in rows:
        texts = [
            ILLEGAL_CHARACTERS_RE.sub("", str(row.get(name, "")))[:MAX_CELL] for name in columns
        ]
        # Whole numbers stay numbers, since VLMEvalKit compares indices as such.
        sheet.append([int(text) if _is_number(text) else text for text in texts])
    content = io.BytesIO()
    workbook.save(content)
    write_atomically(path, content.getvalue())


def _is_number(text: str) -> bool:
    """Whether a text is a whole number as a workbook writes it, without leading zeros."""
    is_plain = text.isascii() and text.isdecimal() and len(text) < 15
    return is_plain and str(int(text)) == text
