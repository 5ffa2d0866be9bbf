"""Free answers of MathVista and MATH-Vision, by the rules of VLMEvalKit without a judge.

Sources: open-compass/VLMEvalKit, ``vlmeval/dataset/utils/mathvista.py`` and ``mathv.py`` at e8e78f0.
"""

from __future__ import annotations

import ast
import contextlib
import math
import operator
import re
from collections.abc import Callable

TOLERANCE = 1e-6
"""Of MATH-Vision, absolute."""
MAX_LENGTH = 200
"""Characters of what is computed; longer texts are compared as texts."""
MAX_POWER = 64

OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
LATEX = (
    (re.compile(r"\\left|\\right|\\[,;! ]|\$|\\mathrm|\\text"), ""),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r"((\1)**0.5)"),
    (re.compile(r"\\pi\b"), f"({math.pi})"),
    (re.compile(r"\\times|\\cdot"), "*"),
    (re.compile(r"\^"), "**"),
    (re.compile(r"[{}]"), lambda match: "()"[match[0] == "}"]),
    # 2(3) and 2\sqrt{3} are products.
    (re.compile(r"(?<=[\d)])\s*(?=\()"), "*"),
)
"""How formulas in LaTeX become arithmetic, one after the other."""


def same_mathvista_answer(answer: str, reference: str, answer_type: str) -> bool:
    """Whether a free answer is the reference: as a whole number, a number, or a text.

    Args:
      answer_type: ``integer``, ``float``, ``list`` or ``text``.
    """
    convert = {"integer": int, "float": float}.get(answer_type, str)
    try:
        return convert(answer.strip()) == convert(reference.strip())
    except ValueError:
        return False


def same_mathvision_answer(answer: str, reference: str) -> bool:
    """Whether a free answer is the reference: as a text, or as a number within ``TOLERANCE``.

    Numbers may be arithmetic or simple formulas in LaTeX (fractions, roots, powers, pi).
    """
    left, right = answer.lower().strip(), reference.lower().strip()
    if left == right:
        return True
    values = [_value(left), _value(right)]
    return None not in values and abs(values[0] - values[1]) < TOLERANCE  # type: ignore[operator]


def _value(text: str) -> float | None:
    """The number that a text is, or None."""
    if len(text) > MAX_LENGTH:
        return None
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)  # type: ignore[arg-type]
    with contextlib.suppress(SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        value = _evaluate(ast.parse(text.strip(), mode="eval").body)
        return value if math.isfinite(value) else None
    return None


def _evaluate(node: ast.expr) -> float:
    """The value of arithmetic. ValueError for anything else."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            values = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.Pow) and (abs(values[1]) > MAX_POWER or values[0] < 0):
                raise ValueError("a power that is not computed")
            return OPERATORS[type(op)](*values)
    raise ValueError("no arithmetic")
