"""A separate process that compares formulas with math-verify; ``math_equal.py`` starts this file.

In, on stdin: lines of JSON, ``[reference_answer, answer]``, each text as math-verify reads it.
Out, on stdout: one line of JSON each, first ``"ready"``, then ``"right"``, ``"wrong"`` or
``"unreadable reference"``. The file imports nothing from corl_jax, so that it starts fast, and it
may be killed at any time.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys

MEMORY_LIMIT = 4 << 30
"""Bytes of address space: a tower of powers must not use up the memory of the host."""


def main() -> None:
    """Answers lines until stdin ends."""
    # The answers go to the original stdout; whatever libraries print goes to stderr instead.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    if sys.platform == "linux":  # other systems do not enforce the limit
        hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, hard_limit))

    # math-verify builds its grammar at the first formula: do that before saying "ready".
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Units are compared before: math-verify would drop them, and letters that look like them.
    normalization = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    targets = [LatexExtractionConfig(normalization_config=normalization), ExprExtractionConfig()]
    read = functools.partial(parse, extraction_config=targets, parsing_timeout=None)
    read("$\\frac{1}{2}$")
    print(json.dumps("ready"), file=output)

    for line in sys.stdin:
        reference_answer, answer = json.loads(line)

        # math-verify limits time by signals, which do not interrupt arithmetic in C, so its limits
        # are off. The parent process kills this one when it takes too long.
        expected = read(reference_answer)
        if not expected:
            verdict = "unreadable reference"
        else:
            equal = verify(expected, read(answer), timeout_seconds=None)
            verdict = "right" if equal else "wrong"
        print(json.dumps(verdict), file=output)


if __name__ == "__main__":
    main()
