"""Whether two formulas are the same, by math-verify. In: strings; out: verdicts in bounded time."""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
import re
import selectors
import subprocess
import sys
import threading

from corl_jax.core.errors import UserError
from corl_jax.rewards.parsing.numbers import only_number

LONGEST = 1000
"""Characters of an answer; a longer one is no short answer and earns 0."""
SECONDS = 3.0
START_SECONDS = 120.0
WORKER = pathlib.Path(__file__).with_name("math_worker.py")

MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed")
UNIT = re.compile(
    r"(?<=[0-9})\s])\s*(?:square |cubic )?"
    r"(?:[mcdk]m|in|ft|units?|degrees?|inch(?:es)?|feet|foot|(?:centi|milli|deci|kilo)?met(?:er|re)s?)"
    r"(?:\s?\^\s?\{?[23]\}?)?$"
)
PLAIN = (
    (re.compile(r"√\s*([0-9.]+|[A-Za-z])|(?<!\\)sqrt ?([0-9.]+)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√"), r"\\sqrt"),
    (re.compile(r"²"), "^2"),
    (re.compile(r"³"), "^3"),
    (re.compile(r"×|·"), r"\\cdot "),
)
PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|frac)[A-Za-z]{3,}")


def formula(text: str) -> str | None:
    """What math-verify is to read of a short answer: LaTeX in dollar signs, or None if there is no one formula.

    A text that marks its formula (dollar signs, ``\\boxed``) is handed on as it is. Otherwise what follows the last
    equals sign or ``is`` counts, plain notation (``√``, ``²``, ``sqrt(3)``) becomes LaTeX, and a length's unit goes.
    Prose without a marked formula is read only if it names exactly one number: math-verify would take the number that
    it sees first in an unmarked ``2\\sqrt{3}``.
    """
    text = " ".join(text.split()).rstrip(". ")
    if MARKED.search(text):
        return text
    if not re.search(r",|\bor\b|\band\b", text):
        text = re.split(r"=|\bis\b|\bequals\b", text)[-1].strip()
    for pattern, plain in PLAIN:
        text = pattern.sub(plain, text)
    text = UNIT.sub("", text)
    if PROSE.search(text):
        number = only_number(text)
        return None if number is None or "\\" in text else f"${number}$"
    return f"${text}$" if text else None


def same_formula(answer: str, reference: str) -> bool:
    """Whether an answer is mathematically the reference (R1-V's accuracy, which OThink-MR1 follows).

    Equal texts are right; otherwise math-verify decides. What takes it longer than ``SECONDS`` is wrong.

    Raises:
      UserError: math-verify is not installed.
      ValueError: a reference that is no formula.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "the reward 'symbolic' needs math-verify, which is not installed; run: pip install math-verify"
        )
    expected, found = formula(reference), formula(answer) if len(answer) <= LONGEST else None
    verdict = _JUDGE.verdict(expected, expected) if expected else "unreadable reference"
    if verdict != "right":
        raise ValueError(
            f"the reference {reference[:80]!r} is no formula that math-verify reads; found: {verdict}"
        )
    if answer.split() == reference.split():
        return True
    return found is not None and _JUDGE.verdict(expected, found) == "right"


class FormulaChecker:
    """Asks one worker process, started when first needed and replaced when it takes too long; threads take turns."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.verdict = functools.lru_cache(maxsize=4096)(self._ask)

    def _ask(self, reference: str, answer: str) -> str:
        """``right``, ``wrong``, ``unreadable reference``, or ``no verdict`` in time or memory."""
        with self._lock:
            try:
                process = self._started()
                return self._line(process, self._seconds, [reference, answer]) or "no verdict"
            except (
                BaseException
            ):  # also an interrupt: a late line must not answer the next question
                self._stop()
                raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            pipe = subprocess.PIPE
            line = [sys.executable, "-P", str(WORKER)]
            self._process = subprocess.Popen(
                line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
            if self._line(self._process, START_SECONDS) != "ready":
                raise UserError(
                    "math-verify does not start; see why with: python -c 'import math_verify'"
                )
        return self._process

    def _line(
        self, process: subprocess.Popen[bytes], seconds: float, question: list[str] | None = None
    ) -> str | None:
        """The worker's next line, after a question if one is given; without one in time None, and the worker ends."""
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        if question is not None:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if ready.select(seconds) else b""
        if line:
            return json.loads(line)
        self._stop()
        return None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


_JUDGE = FormulaChecker()
