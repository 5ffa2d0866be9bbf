"""The pure parts of ``tests/faults.py``: what counts as survived, and as what it is reported."""

from __future__ import annotations

import random

import faults
import pytest
from fault_campaign.campaign import Result, plan
from fault_campaign.change_kinds import CHANGES
from fault_campaign.damage_kinds import flip_bit
from fault_campaign.inputs import write_records
from fault_campaign.kinds import KINDS
from fault_campaign.processes import Ending, Violation
from fault_campaign.remains import Remains, differences, kept_steps, saved_steps, steps_in_writing
from fault_campaign.table import format_problems, format_table, rows_by_kind, to_json

BAR = "  0%| 0/8\r 50%| 4/8\n"
LINE = "error: reward 'letters' must be finite; got nan\n"
TRACE = "Traceback (most recent call last):\n  File\nKeyError: 'x'\n"


def test_one_line_of_error_is_a_refusal():
    Ending(2, BAR + LINE).check_refusal("letters", "nan")
    Ending(0, BAR).check_success()
    assert str(Ending(2, BAR + LINE)) == f"exit code 2: {LINE.strip()}"
    assert str(Ending(-9, BAR)) == "ended by SIGKILL"


@pytest.mark.parametrize(
    "ending",
    [
        Ending(1, BAR + LINE),
        Ending(2, BAR),
        Ending(2, BAR + LINE + LINE),
        Ending(2, LINE + "more of it\n"),
        Ending(2, TRACE + LINE),
        Ending(2, "*** Check failure stack trace: ***\n" + LINE),
        Ending(2, "error: another reward\n"),
    ],
)
def test_anything_else_is_not(ending):
    with pytest.raises(Violation):
        ending.check_refusal("letters")
    with pytest.raises(Violation):
        ending.check_success()


def test_every_kind_of_difference_counts():
    unbroken = Remains([{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}], {"w": "x"}, "{}", {})
    assert not differences(unbroken, unbroken)
    other = Remains([{"step": 1, "a": 1.0}], {"w": "y", "v": "z"}, "{1}", {"step_1.png": "b"})
    found = differences(other, unbroken)
    assert (found.arrays, found.rows, found.other) == (2, 1, ("position", "samples"))
    assert found.count == 5
    assert not differences(unbroken.without_rows([2]), unbroken.without_rows([2, 3]))


def test_steps_of_a_resumed_run_and_of_the_disk(tmp_path):
    assert kept_steps([b"1", b"2", b"3"], [b"1", b"2", b"x", b"4"]) == 2
    assert kept_steps([], [b"1"]) == 0
    assert saved_steps(tmp_path) == steps_in_writing(tmp_path) == []
    for name in ("10", "8", "12.orbax-checkpoint-tmp", ".probe_0"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_steps(tmp_path) == [8, 10] and steps_in_writing(tmp_path) == [12]


def test_damage_and_changes_change_something(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    flip_bit(file, random.Random(0))
    assert sum(byte.bit_count() for byte in file.read_bytes()) == 1

    contents = []
    for name, change in CHANGES.items():
        records = write_records(tmp_path / name)
        before = {path: path.read_bytes() for path in records.rglob("*.*")}
        change(records, random.Random(1))
        contents.append({path: path.read_bytes() for path in records.rglob("*.*")} != before)
    assert contents == [True] * len(CHANGES)


def test_plan_and_report():
    assert plan(["kill", "term"], 5) == [
        ("kill", 0),
        ("term", 0),
        ("kill", 1),
        ("term", 1),
        ("kill", 2),
    ]
    results = [
        Result(1, "kill", "", 0, 0, ("ended by SIGKILL", "exit code 0"), 3.0),
        Result(2, "term", "differs", 2, 5, ("exit code 0",), 4.0),
        Result(3, "kill", "", 0, 0, ("exit code 0",), 5.0),
    ]
    kill, term, everything = rows_by_kind(results)
    assert (kill["runs"], kill["survived"], kill["seconds"]) == (2, 2, 8)
    assert kill["outcomes"] == ["2 x exit code 0", "1 x ended by SIGKILL"]
    assert (term["survived"], term["steps lost"], term["differences"]) == (0, 2, 5)
    assert (everything["runs"], everything["survived"]) == (3, 2)
    assert format_problems(results) == "002 term: differs"
    assert "2 x exit code 0" in format_table(results)
    assert to_json(results, seed=4)["seed"] == 4


def test_kinds_are_described(capsys):
    assert len(KINDS) >= 16 and all(kind.hurt.__doc__ for kind in KINDS.values())
    assert faults.main(["--list"]) == 0
    assert "kill_in_save" in capsys.readouterr().out
