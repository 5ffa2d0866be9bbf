"""Fuzzes the readers of answers and of records; needs atheris (``pip install -e '.[fuzz]'``).

    PYTHONPATH=. python tests/fuzz/fuzz_answers.py -dict=tests/fuzz/answers.dict \\
        -max_total_time=300 -max_len=600 CORPUS_FOLDER

The folder keeps the inputs that reached new code; it may be left out. The last byte of an input
chooses what is read. An input that raises anything but ``UserError``, or breaks a promise below, is
written to a file ``crash-*``; the command with that file in place of the folder reads it again.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["corl_jax.data.answers", "corl_jax.rewards.parsing"]):
    from corl_jax.core.errors import UserError
    from corl_jax.core.problems import problems_of
    from corl_jax.data.answers.characters import canonical_text
    from corl_jax.data.answers.options import LETTERS, extract_option, list_options
    from corl_jax.data.answers.reading import is_correct, read_answer
    from corl_jax.data.answers.words import same_text
    from corl_jax.data.answers.wrappers import unwrap
    from corl_jax.rewards.parsing.answers import token_f1, well_formed
    from corl_jax.rewards.parsing.boxes import box_score
    from corl_jax.rewards.parsing.classes import class_f1
    from corl_jax.rewards.parsing.formulas import read_formula
    from corl_jax.rewards.parsing.numbers import same_number
    from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard

import numpy as np  # noqa: E402

from corl_jax.data.record_fields import make_record  # noqa: E402
from corl_jax.data.records import check_record  # noqa: E402
from corl_jax.data.scored_rows import read_scored_rows  # noqa: E402
from corl_jax.data.sources.addresses import open_source  # noqa: E402
from corl_jax.data.sources.columns import read_fields, resolve_columns  # noqa: E402

IMAGE = np.zeros((1, 1, 3), np.uint8)
FILE = pathlib.Path(tempfile.mkdtemp()) / "records.jsonl"
QA_TYPES = ("MC", "OE", "mc", "open-ended", "other")


def read_one(data: bytes) -> None:
    """Reads one input as answers, as the columns of a record, or as a file of records."""
    provider = atheris.FuzzedDataProvider(data)
    target = provider.ConsumeIntInRange(0, 3)
    if target < 2:
        text, other = (consume_text(provider, 200) for _ in range(2))
        check_answers(text, other, [consume_text(provider, 20) for _ in range(3)])
    elif target == 2:
        names = ("prompt", "real_image", "qa_problem", "qa_solution", "cls_solution", "od_solution")
        columns = {name: consume_text(provider, 100) for name in names}
        check_columns(columns | {"qa_type": provider.PickValueInList(list(QA_TYPES))})
    else:
        FILE.write_bytes(provider.ConsumeBytes(len(data)))
        check_file()


def consume_text(provider: atheris.FuzzedDataProvider, length: int) -> str:
    """A text of at most ``length`` bytes; bytes that are no UTF-8 become halves of surrogates."""
    size = provider.ConsumeIntInRange(0, length)
    return provider.ConsumeBytes(size).decode("utf-8", "surrogateescape")


def check_answers(text: str, other: str, choices: list[str]) -> None:
    """Reads two texts by every rule that rewards have, and checks what holds for all texts."""
    for read in (canonical_text, read_answer, unwrap):
        assert read(read(text)) == read(text)
    assert is_correct(text, text, "OE") == bool(read_answer(text))
    assert same_text(text, other) == same_text(other, text)
    assert extract_option(text, choices) in (None, *LETTERS)
    assert len(list_options(text)) != 1 and read_formula(read_answer(text)) != 0
    assert well_formed(text) in (True, False)
    assert 0 <= token_f1(text, other) <= 1 and 0 <= soft_jaccard(text, other) <= 1

    for compare in (class_f1, box_score, same_number):
        try:
            assert compare(read_answer(other), read_answer(other)) > 0.999
            assert 0 <= compare(read_answer(text), read_answer(other)) <= 1
        except UserError as error:
            check_error(error)
    try:
        is_correct(text, other, "MC", choices)
    except UserError as error:
        check_error(error)


def check_columns(columns: dict[str, str]) -> None:
    """Reads a record: it is refused, or its solution is right."""
    try:
        fields = read_fields(columns, resolve_columns(columns, {}, "x"), "x")
        record = check_record(make_record(fields, "x", IMAGE))
    except UserError as error:
        check_error(error)
        return
    # A record for drawing alone has nothing to ask.
    if record.question:
        assert is_correct(record.solution, record.answer, record.qa_type, record.choices)


def check_file() -> None:
    """Reads the file, for rewards of outputs and for training."""
    try:
        read_scored_rows(FILE)
    except UserError as error:
        for text in problems_of(error):
            assert "\n" not in text

    try:
        source = open_source(str(FILE), "train")
    except UserError as error:
        check_error(error)
        return
    for reason in source.unreadable.values():
        assert "\n" not in reason
    for position in set(range(len(source))) - source.unreadable.keys():
        check_record(source.text_record(position))


def check_error(error: UserError) -> None:
    """An error text is one line."""
    assert "\n" not in str(error)


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()
