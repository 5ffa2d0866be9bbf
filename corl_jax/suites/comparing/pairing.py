"""Whether folders of results can be compared: the same suite, data and questions, record by record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.suites.results import SuiteResults

SAME_FIELDS = ("cluster", "category", "prompt", "reference")
"""What records of one id must have in common."""
DATA_KEY = "data"
"""Entry of ``about`` that names the data and its version, with a digest: equal or absent everywhere."""
NEXT_STEP = "Evaluate both on the same data, or compare other folders"


def pair_results(results: Sequence[SuiteResults]) -> tuple[SuiteResults, ...]:
    """The same results with records in the order of the first.

    Raises:
      UserError: fewer than two folders, one of them twice, another suite, other data, or records
        that are not the same questions.
    """
    if len(results) < 2:
        raise UserError(f"a comparison must have at least two folders; got {len(results)}")
    places = [result.folder.resolve() for result in results]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(
                f"folders must differ; got {str(results[number].folder)!r} twice. Name another one"
            )
    for result in results:
        _check_records(result)
    return (results[0], *(_align(results[0], other) for other in results[1:]))


def _check_records(result: SuiteResults) -> None:
    """Refuses a folder without records, or with two of one id."""
    if not result.records:
        raise UserError(
            f"{str(result.folder)!r} must have records; got none. Evaluate into another folder"
        )
    ids = set()
    for record in result.records:
        if record.id in ids:
            raise UserError(
                f"records of {str(result.folder)!r} must have different ids; got "
                f"{_shorten(record.id)} twice. Evaluate into another folder"
            )
        ids.add(record.id)


def _align(first: SuiteResults, other: SuiteResults) -> SuiteResults:
    """``other`` with its records in the order of ``first``."""
    both = f"{str(first.folder)!r} and {str(other.folder)!r}"
    _require_same(both, "be of one suite", first.suite, other.suite)
    data = [result.about.get(DATA_KEY) for result in (first, other)]
    _require_same(both, f"be of the same data ({DATA_KEY} in about)", *data)

    by_id = {record.id: record for record in other.records}
    ids = {record.id for record in first.records}
    # The first record that only one of them has, in the order of its folder.
    for here, there, known in ((first, other, by_id.keys()), (other, first, ids)):
        lacking = [record.id for record in here.records if record.id not in known]
        if lacking:
            raise UserError(
                f"{both} must have the same records; got {_shorten(lacking[0])} only in "
                f"{str(here.folder)!r} ({len(lacking)} of {len(here.records)} are not in "
                f"{str(there.folder)!r}). {NEXT_STEP}"
            )

    for record in first.records:
        match = by_id[record.id]
        for field in SAME_FIELDS:
            what = f"have the same {field} in record {_shorten(record.id)}"
            _require_same(both, what, getattr(record, field), getattr(match, field))
    return dataclasses.replace(other, records=tuple(by_id[record.id] for record in first.records))


def _require_same(folders: str, what: str, first: object, other: object) -> None:
    """Refuses two different values, and shows long texts from shortly before they part."""
    if first == other:
        return
    start = 0
    if isinstance(first, str) and isinstance(other, str):
        start = max(0, len(os.path.commonprefix([first, other])) - 30)
    raise UserError(
        f"{folders} must {what}; got {_shorten(first, start)} and {_shorten(other, start)}. "
        f"{NEXT_STEP}"
    )


def _shorten(value: object, start: int = 0) -> str:
    """A value for an error text, on one line, a text from character ``start`` on."""
    if isinstance(value, str):
        before, after = "..." if start else "", "..." if len(value) > start + 90 else ""
        return before + repr(value[start : start + 90]) + after
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
