"""Whether two formulas are mathematically equal, by math-verify, in bounded time."""

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

MAX_ANSWER_LENGTH = 1000
"""Characters of an answer; a longer one earns 0 unread."""
TIMEOUT_SECONDS = 3.0
"""Time for one comparison."""
STARTUP_TIMEOUT_SECONDS = 120.0
"""Time for the worker to import math-verify."""
WORKER = pathlib.Path(__file__).with_name("math_worker.py")

# "$...$", "\(...\)", "\[...\]" or "\boxed{...}"
MARKED_FORMULA = re.compile(r"\$|\\\(|\\\[|\\boxed")
# A unit at the end of a text: "2√3 cm", "5 m^2", "145 degrees".
TRAILING_UNIT = re.compile(
    r"(?<=[0-9})\s])\s*(?:square |cubic )?"
    r"(?:[mcdk]m|in|ft|units?|degrees?|inch(?:es)?|feet|foot"
    r"|(?:centi|milli|deci|kilo)?met(?:er|re)s?)"
    r"(?:\s?\^\s?\{?[23]\}?)?$"
)
# Notation without LaTeX, in the order in which it is replaced.
PLAIN_TO_LATEX = (
    # "√3", "√x" and "sqrt 3" take the number or letter that follows; "√(...)" keeps its brackets.
    (re.compile(r"√\s*([0-9.]+|[A-Za-z])|(?<!\\)sqrt ?([0-9.]+)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√"), r"\\sqrt"),
    (re.compile(r"²"), "^2"),
    (re.compile(r"³"), "^3"),
    (re.compile(r"×|·"), r"\\cdot "),
)
# A word of three letters or more that is neither a function nor a LaTeX command.
PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|frac)[A-Za-z]{3,}")


def to_latex(text: str) -> str | None:
    """Rewrites a short answer as the LaTeX that math-verify is to parse.

    A text that marks its formula (dollar signs, ``\\boxed``) stays as it is. Otherwise only what
    follows the last equals sign or ``is`` counts, plain notation (``√``, ``²``, ``sqrt(3)``)
    becomes LaTeX, and a unit at the end is dropped. Prose without a marked formula counts only
    if it names exactly one number, because math-verify would take the first number that it finds
    in an unmarked ``2\\sqrt{3}``.

    Returns:
      A formula in dollar signs, or None if the text has no single formula.
    """
    text = " ".join(text.split()).rstrip(". ")
    if MARKED_FORMULA.search(text):
        return text

    # "AB = 2√3" means the right-hand side; a list such as "x = 4, 5" stays whole.
    if not re.search(r",|\bor\b|\band\b", text):
        text = re.split(r"=|\bis\b|\bequals\b", text)[-1].strip()

    # Plain notation becomes LaTeX, and units go.
    for pattern, latex in PLAIN_TO_LATEX:
        text = pattern.sub(latex, text)
    text = TRAILING_UNIT.sub("", text)

    # A sentence is read only for its number.
    if PROSE.search(text):
        number = only_number(text)
        return None if number is None or "\\" in text else f"${number}$"
    return f"${text}$" if text else None


def same_formula(answer: str, reference_answer: str) -> bool:
    """Whether an answer is mathematically equal to the reference answer.

    This is R1-V's accuracy, which OThink-MR1 follows. Equal texts are correct; otherwise
    math-verify decides. An answer on which it takes longer than ``TIMEOUT_SECONDS`` is wrong.

    Raises:
      UserError: math-verify is not installed.
      ValueError: math-verify cannot parse the reference answer.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "the reward 'symbolic' needs math-verify, which is not installed; "
            "run: pip install math-verify"
        )

    # The reference answer must be equal to itself, or nothing can be compared with it.
    expected = to_latex(reference_answer)
    verdict = "unreadable reference"
    if expected:
        verdict = _CHECKER.verdict(expected, expected)
    if verdict != "right":
        raise ValueError(
            "the reference answer must be a formula that math-verify parses; "
            f"got {reference_answer[:80]!r} ({verdict}). Correct the record's answer."
        )

    # Equal texts need no comparison, however long they are.
    if answer.split() == reference_answer.split():
        return True
    if len(answer) > MAX_ANSWER_LENGTH:
        return False
    formula = to_latex(answer)
    return formula is not None and _CHECKER.verdict(expected, formula) == "right"


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
