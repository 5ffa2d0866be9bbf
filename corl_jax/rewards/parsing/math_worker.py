"""A process of its own that compares formulas with math-verify; ``algebra.py`` starts it by its path.

In, on stdin: lines of JSON, ``[reference, answer]`` as math-verify reads them. Out, on stdout: one line of JSON each,
first ``"ready"``, then ``"right"``, ``"wrong"`` or ``"unreadable reference"``. It imports nothing of corl_jax, so that
it starts at once, and it may be killed at any time.
"""

from __future__ import annotations

import json
import os
import resource
import sys

MEMORY = 4 << 30
"""Bytes of address space: a tower of powers must not take the host's memory."""


def main() -> None:
    """Answers until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    if sys.platform == "linux":  # elsewhere the limit is not kept
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    from math_verify import parse, verify

    parse("$\\frac{1}{2}$", parsing_timeout=None)  # the grammar is built at the first formula
    print(json.dumps("ready"), file=out)
    for line in sys.stdin:
        reference, answer = json.loads(line)
        # The time limits of math-verify are signals, which arithmetic in C does not hear; the parent has its own.
        expected = parse(reference, parsing_timeout=None)
        if not expected:
            verdict = "unreadable reference"
        else:
            right = verify(expected, parse(answer, parsing_timeout=None), timeout_seconds=None)
            verdict = "right" if right else "wrong"
        print(json.dumps(verdict), file=out)


if __name__ == "__main__":
    main()
