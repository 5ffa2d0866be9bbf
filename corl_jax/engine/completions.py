"""What the policy wrote and drew in training: ``completions/step_000025.jsonl``, and PNG files beside it.

A line is one sample: ``step``, ``task`` (``image`` or ``text``), ``record_id``, ``prompt`` (caption
or question), ``sample`` (number within its group), ``rewards`` by name, ``reward`` (their total),
``advantage``; of an answer also ``completion``, ``prompt_image`` (file of the picture asked about),
``reference_answer`` and ``truncated``; of a picture ``image`` (file of the picture drawn), where it
was planned ``plan``, and ``external`` where it is the record's own picture, which the policy did not
draw.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.checks.paths import check_inside
from corl_jax.core.files import name_write_errors, write_atomically
from corl_jax.engine.grid_files import png_bytes

FOLDER = "completions"
ADVICE = "repair or remove the file"
LARGEST_SIDE = 512
"""Most pixels of a side of a picture; a larger one, which only questions have, is scaled down."""

Pixels = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class StepSample:
    """One sample of a training step.

    Attributes:
      task: ``image`` or ``text``.
      record_id: of the record that the prompt was made from.
      prompt: caption, or question as it was put.
      sample: number within its group, from 0.
      rewards: by name, as computed, before weights.
      reward: their weighted sum, as training takes it.
      advantage: of the sample within its group.
      completion, reference_answer, is_truncated: of an answer.
      plan: that a picture was drawn behind; None where there is none.
      pixels: the picture that was drawn.
      prompt_pixels: the picture that was asked about.
      is_external: whether the picture is the record's own and not drawn by the policy.
    """

    task: str
    record_id: str
    prompt: str
    sample: int
    rewards: Mapping[str, float]
    reward: float
    advantage: float
    completion: str | None = None
    reference_answer: str = ""
    is_truncated: bool = False
    plan: str | None = None
    pixels: Pixels | None = None
    prompt_pixels: Pixels | None = None
    is_external: bool = False


@dataclasses.dataclass(frozen=True)
class SavedSample:
    """A line of a file of completions.

    Attributes:
      step: steps that were done with it.
      image: PNG file of the picture that was drawn; None for an answer.
      prompt_image: PNG file of the picture that was asked about; None where there is none.
      rewards, reward, advantage: NaN where they were not finite.
      Others are as in ``StepSample``.
    """

    step: int
    task: str
    record_id: str
    prompt: str
    sample: int
    rewards: Mapping[str, float]
    reward: float
    advantage: float
    completion: str | None
    reference_answer: str
    is_truncated: bool
    plan: str | None
    image: Path | None
    prompt_image: Path | None
    is_external: bool = False


def write_completions(folder: Path, step: int, samples: Sequence[StepSample], keep: int) -> None:
    """Writes the samples of a step and removes the oldest files beyond ``keep``.

    Args:
      folder: work directory.

    Raises:
      UserError: something cannot be written.
    """
    target = folder / FOLDER
    with name_write_errors(target):
        target.mkdir(exist_ok=True)
    # Pictures first: where a file of lines exists, so do they. All samples of a question share one.
    lines, names = [], _write_pictures(target, step, samples)
    for sample in samples:
        images = {"image": sample.pixels, "prompt_image": sample.prompt_pixels}
        files = {key: names[id(pixels)] for key, pixels in images.items() if pixels is not None}
        line = json.dumps(_entry(step, sample) | files, ensure_ascii=False, allow_nan=False)
        lines.append(line + "\n")
    write_atomically(target / f"{_stem(step)}.jsonl", "".join(lines))

    for old in saved_steps(folder)[:-keep]:
        _remove_step(target, old)


def rewind_completions(folder: Path, step: int) -> None:
    """Removes what later steps than ``step`` wrote, since they are trained again."""
    for later in saved_steps(folder):
        if later > step:
            _remove_step(folder / FOLDER, later)


def saved_steps(folder: Path) -> list[int]:
    """Steps whose completions a work directory has, ascending."""
    names = [path.name for path in _files(folder)]
    matches = (re.fullmatch(r"step_(\d+)\.jsonl", name) for name in names)
    steps = {int(match[1]) for match in matches if match}
    return sorted(step for step in steps if f"{_stem(step)}.jsonl" in names)


def read_completions(folder: Path, step: int) -> list[SavedSample]:
    """The samples of a step that a work directory has.

    Raises:
      UserError: the file is damaged, or it or a picture lies outside of the work directory.
    """
    path = folder / FOLDER / f"{_stem(step)}.jsonl"
    check_inside(path, folder)
    samples = []
    for number, line in read_lines(path):
        label = f"line {number} of {str(path)!r}"
        entry = JsonObject.check(parse_json(line, label, ADVICE), label, ADVICE)
        samples.append(_read_sample(entry, folder))
    return samples


def group_samples(samples: Sequence[SavedSample], task: str) -> list[tuple[SavedSample, ...]]:
    """Samples of one task by their prompts, in the order of the file."""
    chosen = [sample for sample in samples if sample.task == task]
    # A record may come twice in a step, and then its samples are numbered anew.
    starts = itertools.accumulate(sample.sample == 0 for sample in chosen)
    keyed = zip(starts, chosen, strict=True)
    groups = itertools.groupby(keyed, lambda pair: (pair[0], pair[1].record_id))
    return [tuple(sample for _, sample in members) for _, members in groups]


def describe_samples(samples: Sequence[StepSample]) -> str:
    """Samples as plain text, for trackers: a paragraph each, pictures by their rewards alone."""
    paragraphs = []
    for sample in samples:
        rewards = ", ".join(f"{name} {value:.3g}" for name, value in sample.rewards.items())
        real = ", the real picture" if sample.is_external else ""
        lines = [f"{sample.task} {sample.sample}{real}: {sample.prompt}"]
        if sample.completion is not None:
            lines.append(f"-> {sample.completion}")
            lines.append(f"reference answer: {sample.reference_answer}")
        if sample.plan is not None:
            lines.append(f"plan: {sample.plan}")
        lines.append(f"{rewards}; reward {sample.reward:.3g}, advantage {sample.advantage:+.3g}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _read_sample(entry: JsonObject, folder: Path) -> SavedSample:
    rewards = entry.block("rewards")
    return SavedSample(
        step=entry.integer("step"),
        task=entry.text("task"),
        record_id=entry.text("record_id"),
        prompt=entry.text("prompt"),
        sample=entry.integer("sample"),
        rewards={name: _number(rewards, name) for name in rewards.entries},
        reward=_number(entry, "reward"),
        advantage=_number(entry, "advantage"),
        completion=entry.optional_text("completion"),
        reference_answer=entry.text("reference_answer", ""),
        is_truncated=entry.boolean("truncated", False),
        plan=entry.optional_text("plan"),
        image=_image_path(entry, "image", folder),
        prompt_image=_image_path(entry, "prompt_image", folder),
        is_external=entry.boolean("external", False),
    )


def _number(entry: JsonObject, name: str) -> float:
    value = entry.optional_number(name)
    return math.nan if value is None else value


def _image_path(entry: JsonObject, name: str, folder: Path) -> Path | None:
    """The file that an entry names, which must be beside the file of lines."""
    file_name = entry.optional_text(name)
    if file_name is None:
        return None
    if not re.fullmatch(r"[\w.-]+\.png", file_name):
        entry.refuse(name, "the name of a PNG file beside it")
    check_inside(folder / FOLDER / file_name, folder)
    return folder / FOLDER / file_name


def _entry(step: int, sample: StepSample) -> dict[str, Any]:
    """The line of a sample, without its pictures."""
    entry: dict[str, Any] = {
        "step": step,
        "task": sample.task,
        "record_id": sample.record_id,
        "prompt": sample.prompt,
        "sample": sample.sample,
        "rewards": {name: _finite(value) for name, value in sample.rewards.items()},
        "reward": _finite(sample.reward),
        "advantage": _finite(sample.advantage),
    }
    if sample.completion is not None:
        entry |= {
            "completion": sample.completion,
            "reference_answer": sample.reference_answer,
            "truncated": sample.is_truncated,
        }
    if sample.plan is not None:
        entry["plan"] = sample.plan
    if sample.is_external:
        entry["external"] = True
    return entry


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_pictures(target: Path, step: int, samples: Sequence[StepSample]) -> dict[int, str]:
    """Writes every picture once; ``id`` of its pixels to the name of its file."""
    names: dict[int, str] = {}
    for sample in samples:
        for pixels, kind in ((sample.pixels, ""), (sample.prompt_pixels, "_prompt")):
            if pixels is None or id(pixels) in names:
                continue
            names[id(pixels)] = f"{_stem(step)}_{len(names):03d}{kind}.png"
            image = Image.fromarray(np.asarray(pixels))
            image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            write_atomically(target / names[id(pixels)], png_bytes(image))
    return names


def _stem(step: int) -> str:
    return f"step_{step:06d}"


def _files(folder: Path) -> Iterator[Path]:
    target = folder / FOLDER
    return target.iterdir() if target.is_dir() else iter(())


def _remove_step(target: Path, step: int) -> None:
    """Removes the lines of a step, then its pictures."""
    with name_write_errors(target):
        (target / f"{_stem(step)}.jsonl").unlink()
        for path in target.glob(f"{_stem(step)}_*.png"):
            path.unlink()
