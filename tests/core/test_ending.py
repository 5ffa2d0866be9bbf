"""How a program ends: exit codes, one line, and nothing about a pipe that was closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.processes import ending
from corl_jax.core.processes.ending import CLOSED_PIPE, INTERRUPTED, run_program

ROOT = Path(__file__).parents[2]


def raise_error(error):
    raise error


def test_exit_codes_and_lines(capsys):
    assert run_program(lambda: 0) == 0
    assert run_program(lambda: raise_error(UserError("x must be y; got z"))) == 2
    assert capsys.readouterr().err == "error: x must be y; got z\n"
    assert run_program(lambda: raise_error(KeyboardInterrupt())) == INTERRUPTED
    assert run_program(lambda: raise_error(BrokenPipeError())) == CLOSED_PIPE
    assert capsys.readouterr().err == "error: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("cause", "calls"),
    [
        (None, ["failure", "end"]),
        (OSError(28, "No space left"), ["failure", "end"]),
        (ValueError("Gloo AllGather failed"), ["suspect", "wait", "failure", "end"]),
    ],
)
def test_an_error_that_may_come_from_a_process_that_has_gone(monkeypatch, cause, calls):
    """The others are looked after before the error is told, as the watch may know better."""
    made = []

    class Others:
        suspect = staticmethod(lambda: made.append("suspect"))
        report_failure = staticmethod(lambda message: made.append("failure"))
        end = staticmethod(lambda line, code: made.append("end"))

    def save():
        try:
            raise UserError("x cannot be written") from cause
        except UserError as error:
            raise UserError("process 1 of 2 stopped") from error

    monkeypatch.setattr(ending, "_others", Others())
    monkeypatch.setattr(ending.time, "sleep", lambda seconds: made.append("wait"))
    assert run_program(save) == 2 and made == calls


@pytest.mark.parametrize("flags", [["--help"], ["inspect", "--help"], ["inspect"]])
def test_a_closed_pipe_is_no_traceback(flags):
    """As in ``corl ... | head``, with both outputs in the pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "corl_jax.commands.cli", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    output = {"stdout": writer, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, **output)
    os.close(writer)
    stderr = process.communicate(timeout=60)[1]
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr, stderr
    assert process.returncode == (2 if flags == ["inspect"] else CLOSED_PIPE)
