"""JSON that no program wrote: arbitrary values, and good files with arbitrary values in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from corl_jax.core.errors import UserError
from corl_jax.core.problems import problems_of

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=100)

NUMBERS = st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 10**200, 1e-320, 1e308])
NUMBERS |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
"""What ``json_reader`` lets through: any JSON without NaN and infinity."""


def variants(content: dict[str, Any] | list[Any]) -> st.SearchStrategy[Any]:
    """Copies of ``content`` in which up to three values are others, or absent."""
    paths = list(_paths(content))
    changes = st.lists(st.tuples(st.sampled_from(paths), VALUES, st.booleans()), max_size=3)
    return changes.map(lambda chosen: _apply(content, chosen))


def _paths(value: Any, path: tuple = ()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items if isinstance(value, (dict, list)) else ():
        if isinstance(item, (dict, list)):
            yield from _paths(item, (*path, key))
        else:
            yield (*path, key)


def _apply(content: Any, changes: list[tuple[tuple, Any, bool]]) -> Any:
    content = json.loads(json.dumps(content))
    for path, value, removes in changes:
        block = content
        try:
            for key in path[:-1]:
                block = block[key]
            if removes:
                del block[path[-1]]
            else:
                block[path[-1]] = value
        # An earlier change has put something else on the way.
        except (KeyError, IndexError, TypeError):
            continue
    return content


def raises_at_most_a_user_error(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, or None if it raised a UserError: moderate lines, one per problem."""
    try:
        return function(*arguments)
    except UserError as error:
        for text in problems_of(error):
            assert "\n" not in text and len(text) < 2500
        return None


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """The text of the UserError that a call raises, which is one line of moderate length."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2500
    return str(error.value)
