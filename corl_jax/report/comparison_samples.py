"""What policies drew for the same prompts, and the questions about which they differ, as HTML."""

from __future__ import annotations

import base64
import collections
import io
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from html import escape

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


def render_drawings(comparison: Comparison, labels: Sequence[str], score: str) -> str:
    """Prompts with the pictures of every policy side by side; the largest differences come first.

    Args:
      comparison: of a suite whose records are pictures.
      labels: of the policies.
      score: that decides which prompts come first.

    Raises:
      UserError: a picture cannot be read, or it lies outside its folder.
    """
    sides = [_by_cluster(side.records) for side in comparison.results]
    means = [{name: _mean(group, score) for name, group in side.items()} for side in sides]
    chosen = _order(sides[0], lambda name: _spread([side[name] for side in means]))[:LIMIT]

    cells = '<div class="soft small">prompt</div>'
    cells += "".join(f'<div class="soft small">{escape(label)}</div>' for label in labels)
    for name in chosen:
        prompt = sides[0][name][0].prompt
        cells += f'<div class="rule"></div><div class="words">{escape(_cut(prompt))}</div>'
        for label, results, side in zip(labels, comparison.results, sides, strict=True):
            shown = side[name][:PICTURES]
            figures = "".join(_figure(results.folder, record) for record in shown)
            cells += f'<div class="four" data-side="{escape(label)}">{figures}</div>'

    return (
        f'<p class="soft">{len(chosen)} of {len(sides[0])} prompts, those with the largest '
        f"differences of the mean <code>{escape(score)}</code> first; at most {PICTURES} pictures "
        "of each. Below a picture are its scores.</p>"
        f'<div class="card scroll"><div class="draw many" style="--n:{len(labels)}">{cells}</div>'
        "</div>"
    )


def render_questions(comparison: Comparison, labels: Sequence[str], score: str) -> str:
    """Questions about which the policies differ, with every answer; "" if there is none.

    Args:
      comparison: of a suite whose records are answers.
      labels: of the policies.
      score: by which they differ.

    Raises:
      UserError: as ``render_drawings``.
    """
    places = range(len(comparison.results[0].records))
    rows = {
        comparison.results[0].records[place].id: [
            side.records[place] for side in comparison.results
        ]
        for place in places
    }
    spreads = {name: _spread([_mean([it], score) for it in row]) for name, row in rows.items()}
    differing = _order([name for name in rows if spreads[name] > 0], lambda name: spreads[name])
    if not differing:
        return ""

    cards = "".join(_question(comparison, labels, rows[name], score) for name in differing[:LIMIT])
    return (
        f'<p class="soft">{len(differing[:LIMIT])} of {len(differing)} questions where '
        f"<code>{escape(score)}</code> differs ({len(rows)} questions in all), the largest "
        "differences first; which of equal ones are shown is settled by their ids.</p>"
        f'<div class="grid talks">{cards}</div>'
    )


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


def _figure(folder: pathlib.Path, record: SuiteRecord) -> str:
    """One picture with its scores below."""
    scores = "<br>".join(f"{escape(name)} {value:.3g}" for name, value in record.scores.items())
    picture = picture_tag(folder, record) or "<i>no picture</i>"
    return f'<figure class="pic">{picture}<figcaption>{scores}</figcaption></figure>'


def _question(
    comparison: Comparison, labels: Sequence[str], row: Sequence[SuiteRecord], score: str
) -> str:
    """One question as a card: picture, question, reference answer, and every answer."""
    answers = ""
    for label, record in zip(labels, row, strict=True):
        value = record.scores.get(score)
        text = escape(_cut(record.output)) or "<i>nothing</i>"
        answers += (
            f'<span class="soft small">{escape(label)}</span>{_mark(value)}<span>{text}</span>'
        )

    # Folders share the question's picture; one may have been evaluated without writing it.
    with_picture = [
        picture_tag(side.folder, record)
        for side, record in zip(comparison.results, row, strict=True)
        if record.picture
    ][:1]
    picture = with_picture[0] if with_picture else '<span class="soft small">no picture</span>'

    first = row[0]
    category = f"{escape(first.category)} &middot; " if first.category else ""
    return (
        f'<div class="card talk">{picture}<div class="words"><h3>{escape(_cut(first.prompt))}</h3>'
        f'<p class="soft small">{category}right: <b>{escape(_cut(first.reference)) or "&ndash;"}'
        f'</b> &middot; <code>{escape(first.id)}</code></p><div class="say">{answers}</div></div>'
        "</div>"
    )


def _mark(value: float | None) -> str:
    """A tick, a cross, or the number between them; a dash where there is none."""
    if value is None:
        return '<span class="soft">&ndash;</span>'
    if value in (0, 1):
        look, sign = ("ok", "&#10003;") if value else ("no", "&#10007;")
        return f'<span class="{look}">{sign}</span>'
    return f'<span class="small">{value:.2g}</span>'


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} […]"


def picture_tag(folder: pathlib.Path, record: SuiteRecord) -> str:
    """An ``img`` element that contains the picture of a record, scaled down; "" if it has none.

    Raises:
      UserError: it cannot be read, or it lies outside of ``folder``.
    """
    if not record.picture:
        return ""
    path = folder / record.picture
    check_inside(path, folder)
    image = Image.fromarray(load_image(path, f"record {record.id!r} of {str(folder)!r}"))
    buffer = io.BytesIO()
    # Small pictures lose detail in JPEG, and large ones are many bytes in PNG.
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    image.thumbnail((PIXELS, PIXELS))
    image.save(buffer, kind, quality=85)
    content = base64.b64encode(buffer.getvalue()).decode()
    look = "" if kind == "png" else ' class="smooth"'
    text = escape(_cut(record.prompt))
    return f'<img loading="lazy"{look} src="data:image/{kind};base64,{content}" alt="{text}">'
