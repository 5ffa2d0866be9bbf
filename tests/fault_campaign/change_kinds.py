"""Runs whose inputs change between two starts. The second is refused until they are back."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fault_campaign.bench import ALONE, FROM_RUN
from fault_campaign.damage_kinds import kill_after_saves
from fault_campaign.kinds import kind
from fault_campaign.small_run import STEPS
from fault_campaign.trial import Trial

Lines = list[str]


@kind(ALONE, FROM_RUN)
def moved_init(trial: Trial) -> None:
    """The initial policy changes: it has other weights, or the run that wrote it has gone on."""
    policy = trial.folder / "policy"
    if trial.shape.starts_from_run:
        trial.bench.copy_shorter_run(policy)
    else:
        shutil.copytree(trial.paths.policy, policy)
    trial.paths = dataclasses.replace(trial.paths, policy=policy)
    kill_after_saves(trial)
    if trial.shape.starts_from_run:
        trial.bench.lengthen_run(policy)
    else:
        copy_weights(trial.bench.inputs.other_policy, policy)

    # Whoever has pinned the step that it started from may go on.
    ending = trial.end(trial.start())[0]
    if ending.code == 0:
        trial.compare()
        trial.note("went on from what was pinned")
        return
    ending.check_refusal("init_from")
    if trial.shape.starts_from_run:
        shutil.rmtree(policy / "checkpoints" / str(STEPS))
    else:
        copy_weights(trial.bench.inputs.policy, policy)
    trial.finish()


def copy_weights(source: Path, target: Path) -> None:
    """Copies the weights of one Hugging Face folder over those of another."""
    for file in source.glob("*.safetensors"):
        shutil.copyfile(file, target / file.name)


@kind()
def changed_data(trial: Trial) -> None:
    """The records change: a text, their order, their number, or a picture."""
    records = trial.folder / "records"
    shutil.copytree(trial.paths.records, records)
    trial.paths = dataclasses.replace(trial.paths, records=records)
    kill_after_saves(trial)
    name = trial.rng.choice(sorted(CHANGES))
    CHANGES[name](records, trial.rng)
    trial.note(f"changed the data: {name}")

    trial.refuse("data")
    shutil.copytree(trial.bench.inputs.records, records, dirs_exist_ok=True)
    trial.finish()


def change_text(records: Path, rng: random.Random) -> None:
    """One answer or one caption is another one."""

    def change(lines: Lines) -> Lines:
        row, column = rng.randrange(len(lines)), rng.choice(["prompt", "qa_solution"])
        changed = json.loads(lines[row]) | {column: "two blue circles"}
        return [*lines[:row], json.dumps(changed) + "\n", *lines[row + 1 :]]

    change_lines(records, change)


def change_order(records: Path, rng: random.Random) -> None:
    """The first record is the last one."""
    change_lines(records, lambda lines: [*lines[1:], lines[0]])


def drop_record(records: Path, rng: random.Random) -> None:
    """A record is missing."""
    change_lines(records, lambda lines: lines[:-1])


def change_picture(records: Path, rng: random.Random) -> None:
    """A picture is that of another record."""
    pictures = sorted((records / "images").iterdir())
    source, target = rng.sample(pictures, 2)
    shutil.copyfile(source, target)


CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    "text": change_text,
    "order": change_order,
    "number": drop_record,
    "picture": change_picture,
}
"""Ways in which records change."""


def change_lines(records: Path, change: Callable[[Lines], Lines]) -> None:
    """Replaces the lines of ``train.jsonl``."""
    file = records / "train.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(change(lines)), "utf-8")
