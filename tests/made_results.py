"""Results that are made up, in memory and as folders."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from corl_jax.suites.results import SuiteRecord, SuiteResults, write_results


def make_records(scores, *, clusters=None, categories=None, **fields):
    """One record per row of ``scores`` (score "right", or a dictionary of scores)."""
    records = []
    for place, score in enumerate(scores):
        texts = {
            "prompt": f"question {place}?",
            "reference": "yes",
            "output": "an answer",
            "picture": "",
        } | {name: values[place] for name, values in fields.items()}
        records.append(
            SuiteRecord(
                id=f"q{place}",
                cluster=str(place if clusters is None else clusters[place]),
                category="" if categories is None else categories[place],
                scores=score if isinstance(score, dict) else {"right": float(score)},
                **texts,
            )
        )
    return tuple(records)


def make_results(name, scores, *, suite="mmstar", about=None, **options):
    """Results in memory, of a folder that is not there."""
    about = {"suite": suite, "policy": name} | (about or {})
    return SuiteResults(
        pathlib.Path("/results") / name, suite, about, {}, make_records(scores, **options)
    )


def write_folder(folder, results, pictures=None, metrics=None):
    """The folder of ``results``, with ``pictures`` by name."""
    (folder / "pictures").mkdir(parents=True)
    for name, pixels in (pictures or {}).items():
        Image.fromarray(pixels).save(folder / name)
    write_results(folder, results.about, metrics or {}, results.records)
    return folder


def noise_picture(seed, side=24):
    """A picture of random pixels."""
    return np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
