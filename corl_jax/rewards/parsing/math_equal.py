"""Whether two formulas are mathematically equal, by math-verify, in bounded time."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import pathlib
import selectors
import subprocess
import sys
import threading

from corl_jax.core.errors import UserError
from corl_jax.rewards.parsing.formulas import Formula, read_formula
from corl_jax.rewards.parsing.units import Unit

MAX_ANSWER_LENGTH = 1000
"""Characters of an answer; a longer one earns 0 unread."""
TIMEOUT_SECONDS = 3.0
"""Time for one comparison."""
STARTUP_TIMEOUT_SECONDS = 120.0
"""Time for the worker to import math-verify."""
WORKER = pathlib.Path(__file__).with_name("math_worker.py")


def same_formula(answer: str, reference_answer: str) -> bool:
    """Whether an answer is mathematically equal to the reference answer.

    This is R1-V's accuracy, which OThink-MR1 follows. Equal texts are correct. Otherwise relations
    must be the same, units must measure the same (``40 mm`` is ``4 cm``; one of both may leave its
    unit out), and math-verify decides on the sides. An answer on which it takes longer than
    ``TIMEOUT_SECONDS`` is wrong.

    Args:
      answer: as ``read_answer`` gives it.
      reference_answer: as ``read_answer`` gives it.

    Raises:
      UserError: math-verify is not installed, or it cannot parse the reference answer.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "the reward 'symbolic' needs math-verify, which is not installed; "
            "run: pip install math-verify"
        )

    # The reference answer must be equal to itself, or nothing can be compared with it.
    is_short = len(reference_answer) <= MAX_ANSWER_LENGTH
    expected = read_formula(reference_answer) if is_short else None
    verdicts = _side_verdicts(expected, expected) if expected else ["unreadable reference"]
    if set(verdicts) != {"right"}:
        raise UserError(
            "the reference answer must be a formula that math-verify parses; "
            f"got {reference_answer[:80]!r} ({min(verdicts)}). Correct the record's answer."
        )
    assert expected is not None

    # Equal texts need no comparison, however long they are.
    if answer.split() == reference_answer.split():
        return True
    if len(answer) > MAX_ANSWER_LENGTH:
        return False
    formula = read_formula(answer)
    return formula is not None and _same(formula, expected)


def _same(formula: Formula, expected: Formula) -> bool:
    """Whether two formulas have the same relations, units that agree, and equal sides."""
    if formula.signs != expected.signs or not _units_agree(formula.unit, expected.unit):
        return False

    # The last side is the one with the unit.
    if formula.unit and expected.unit and formula.unit.scale != expected.unit.scale:
        factor = formula.unit.scale / expected.unit.scale
        latex = rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}"
        last_side = rf"${latex} \cdot ({formula.sides[-1].strip('$')})$"
        formula = dataclasses.replace(formula, sides=(*formula.sides[:-1], last_side))

    # x ≠ 5 is 5 ≠ x.
    orders = [formula]
    if set(formula.signs) == {"≠"}:
        orders.append(dataclasses.replace(formula, sides=formula.sides[::-1]))
    return any(set(_side_verdicts(expected, order)) == {"right"} for order in orders)


def _units_agree(unit: Unit | None, expected: Unit | None) -> bool:
    """Whether two units measure the same; one of them may be left out, unless it may be a variable."""
    if unit is None or expected is None:
        present = unit or expected
        return present is None or not present.is_letter
    return unit.dimension == expected.dimension


def _side_verdicts(expected: Formula, formula: Formula) -> list[str]:
    """The verdict on each pair of sides."""
    verdicts = []
    for expected_side, side in zip(expected.sides, formula.sides, strict=True):
        if expected_side and side:
            verdicts.append(_CHECKER.verdict(expected_side, side))
        else:
            # "< 5" leaves out the variable of "x < 5", but never a number.
            present = (expected_side or side).strip("$ ")
            is_variable = len(present) == 1 and present.isalpha()
            verdicts.append("right" if not present or is_variable else "wrong")
    return verdicts


class FormulaChecker:
    """Compares formulas in one worker process, which threads use in turn.

    The worker starts when it is first needed, and is replaced when it takes too long.
    """

    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.verdict = functools.lru_cache(maxsize=4096)(self._compare)

    def _compare(self, reference_answer: str, answer: str) -> str:
        """``right``, ``wrong`` or ``unreadable reference``.

        ``no verdict`` if the worker runs out of time or memory.
        """
        with self._lock:
            try:
                process = self._running_process()
                pair = [reference_answer, answer]
                return self._read_line(process, self._timeout_seconds, pair) or "no verdict"
            except BaseException:
                # An interrupt too: a line that arrives late must not answer the next question.
                self._stop()
                raise

    def _running_process(self) -> subprocess.Popen[bytes]:
        """The worker, started if there is none or it has died.

        Raises:
          UserError: the worker cannot import math-verify.
        """
        if self._process is None or self._process.poll() is not None:
            # -P keeps the folder of the script out of sys.path: numbers.py would hide the stdlib's.
            command = [sys.executable, "-P", str(WORKER)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            # The first line says that math-verify is imported.
            if self._read_line(self._process, STARTUP_TIMEOUT_SECONDS) != "ready":
                raise UserError(
                    "math-verify does not start; see why with: python -c 'import math_verify'"
                )
        return self._process

    def _read_line(
        self, process: subprocess.Popen[bytes], seconds: float, pair: list[str] | None = None
    ) -> str | None:
        """The worker's next line, after sending it ``pair`` if there is one.

        None, and the worker is stopped, if no line comes in time.
        """
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        # Flush, or the worker would not see the line.
        if pair is not None:
            process.stdin.write(json.dumps(pair).encode() + b"\n")
            process.stdin.flush()

        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(seconds) else b""
        # No line: time is up, or the worker has died, for example for lack of memory.
        if line:
            return json.loads(line)

        self._stop()
        return None

    def _stop(self) -> None:
        """Kills the worker and closes its pipes."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


_CHECKER = FormulaChecker()
