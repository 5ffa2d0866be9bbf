"""What policies drew for the same prompts, and the questions about which they differ."""

from __future__ import annotations

import base64
import collections
import io
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from corl_jax.core.checks.paths import check_inside
from corl_jax.data.image_files import load_image
from corl_jax.suites.comparing.comparison import Comparison
from corl_jax.suites.results import SuiteRecord

LIMIT = 40
"""Most prompts or questions that are shown."""
PICTURES = 4
"""Most pictures of one prompt and policy."""
PIXELS = 224
"""Longest side of a picture in the page: twice what it is shown at, for fine screens."""
SMALL = 96
"""Pictures up to this side keep every pixel."""
LETTERS = 1500
"""Longest text of a question or answer."""


def is_drawing(comparison: Comparison) -> bool:
    """Whether the records are pictures that were made, and no answers."""
    records = [record for side in comparison.results for record in side.records]
    return all(not record.output for record in records) and any(it.picture for it in records)


class Picture(NamedTuple):
    """A picture in a page.

    Attributes:
      kind: of its file, ``png`` or ``jpeg``.
      content: the file in base64.
    """

    kind: str
    content: str


def choose_drawings(comparison: Comparison, score: str) -> dict[str, Any]:
    """Prompts with the pictures of every policy; the largest differences come first.

    Args:
      comparison: of a suite whose records are pictures.
      score: that decides which prompts come first.

    Raises:
      UserError: a picture cannot be read, or it lies outside its folder.
    """
    sides = [_by_cluster(side.records) for side in comparison.results]
    means = [{name: _mean(group, score) for name, group in side.items()} for side in sides]
    chosen = _order(sides[0], lambda name: _spread([side[name] for side in means]))[:LIMIT]

    prompts = []
    for name in chosen:
        figures = [
            [_figure(results.folder, record) for record in side[name][:PICTURES]]
            for results, side in zip(comparison.results, sides, strict=True)
        ]
        prompts.append({"prompt": _cut(sides[0][name][0].prompt), "figures": figures})
    return {"prompts": prompts, "total": len(sides[0]), "pictures": PICTURES}


def choose_questions(comparison: Comparison, labels: Sequence[str], score: str) -> dict[str, Any]:
    """Questions about which the policies differ, with every answer.

    Args:
      comparison: of a suite whose records are answers.
      labels: of the policies.
      score: by which they differ.

    Raises:
      UserError: as ``choose_drawings``.
    """
    columns = (side.records for side in comparison.results)
    rows = {row[0].id: row for row in zip(*columns, strict=True)}
    spreads = {name: _spread([_mean([it], score) for it in row]) for name, row in rows.items()}
    differing = _order([name for name in rows if spreads[name] > 0], lambda name: spreads[name])
    cards = [_question(comparison, labels, rows[name], score) for name in differing[:LIMIT]]
    return {"cards": cards, "differing": len(differing), "total": len(rows)}


def _order(names: Sequence[str] | Mapping[str, object], spread: Callable[[str], float]) -> list:
    """Names by spread, the largest first; equal ones are shuffled by a hash, always alike."""
    return sorted(names, key=lambda name: (-spread(name), zlib.crc32(name.encode()), name))


def _by_cluster(records: Sequence[SuiteRecord]) -> dict[str, list[SuiteRecord]]:
    groups = collections.defaultdict(list)
    for record in records:
        groups[record.cluster].append(record)
    return dict(groups)


def _mean(records: Sequence[SuiteRecord], score: str) -> float | None:
    """The mean score of those that have it; None where none has."""
    values = [record.scores[score] for record in records if score in record.scores]
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[float | None]) -> float:
    """How far apart the values are; 0 where fewer than two are known."""
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else 0.0


def _figure(folder: pathlib.Path, record: SuiteRecord) -> dict[str, Any]:
    """One picture with its scores."""
    scores = [f"{name} {value:.3g}" for name, value in record.scores.items()]
    return {"picture": read_picture(folder, record), "scores": scores}


def _question(
    comparison: Comparison, labels: Sequence[str], row: Sequence[SuiteRecord], score: str
) -> dict[str, Any]:
    """One question with its picture, its reference answer, and every answer."""
    # Folders share the question's picture; one may have been evaluated without writing it.
    pictures = (
        read_picture(side.folder, record)
        for side, record in zip(comparison.results, row, strict=True)
        if record.picture
    )
    first = row[0]
    return {
        "id": first.id,
        "prompt": _cut(first.prompt),
        "category": first.category,
        "reference": _cut(first.reference),
        "picture": next(pictures, None),
        "answers": [
            {"label": label, "score": record.scores.get(score), "text": _cut(record.output)}
            for label, record in zip(labels, row, strict=True)
        ],
    }


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} […]"


def read_picture(folder: pathlib.Path, record: SuiteRecord) -> Picture | None:
    """The picture of a record, scaled down; None if it has none.

    Raises:
      UserError: it cannot be read, or it lies outside of ``folder``.
    """
    if not record.picture:
        return None
    path = folder / record.picture
    check_inside(path, folder)
    image = Image.fromarray(load_image(path, f"record {record.id!r} of {str(folder)!r}"))
    buffer = io.BytesIO()
    # Small pictures lose detail in JPEG, and large ones are many bytes in PNG.
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    image.thumbnail((PIXELS, PIXELS))
    image.save(buffer, kind, quality=85)
    return Picture(kind, base64.b64encode(buffer.getvalue()).decode())
