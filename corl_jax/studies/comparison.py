"""A comparison of several ways to train, each over several seeds. In: finished legs on disk; out: a table and plots.

A study is data (``configs/studies.py``); ``corl study`` runs what is missing of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.evals.statistics import percent

ABOUT = ("about",)
"""What stands beside the numbers in the file of ``corl evaluate``."""


@dataclasses.dataclass(frozen=True)
class Leg:
    """One command of an arm, as arguments of ``python -m``.

    ``{out}`` is the leg's own folder, ``{before}`` that of the leg before it in the arm, ``{ARM/LEG}`` that of a leg of
    an earlier arm with the same seed, and ``{seed}`` the seed. ``trains`` tells that settings of the command line
    (``--set``) are for it.
    """

    name: str
    arguments: tuple[str, ...]
    trains: bool = True


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
      question: in a sentence.
      claim: what the paper says, and where.
      arms: by name, in the order of the table; the first is what others are compared with. The last leg of an arm
        leaves ``eval.json``.
      metrics: names in it, what the columns show.
    """

    question: str
    claim: str
    arms: Mapping[str, tuple[Leg, ...]]
    metrics: tuple[str, ...]

    def __post_init__(self):
        for name, legs in self.arms.items():
            if not legs:
                raise UserError(f"the arm {name!r} of a study has no legs; expected at least one")


@dataclasses.dataclass(frozen=True)
class Job:
    """One leg of one arm for one seed: its folder, which its command makes, and the finished command line."""

    arm: str
    seed: int
    leg: Leg
    out: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether it was run to its end with these arguments.

        Raises:
          UserError: it was run with others.
        """
        if not self._mark.is_file():
            return False
        ran = tuple(json.loads(self._mark.read_text("utf-8"))["arguments"])
        if ran != self.arguments:
            changed = " ".join(sorted(set(ran) ^ set(self.arguments)))
            raise UserError(
                f"{self.out} was run with other arguments ({changed}); give --out another folder"
            )
        return True

    def finish(self, seconds: float) -> None:
        """Remembers that it is done."""
        write_json(self._mark, {"arguments": self.arguments, "seconds": seconds})

    @property
    def log(self) -> pathlib.Path:
        """What it prints."""
        return self.out.with_name(f"{self.out.name}.log")

    @property
    def _mark(self) -> pathlib.Path:
        return self.out.with_name(f"{self.out.name}.json")


def jobs(
    study: Study, seeds: Sequence[int], folder: pathlib.Path, settings: Sequence[str] = ()
) -> Iterator[Job]:
    """Everything that the study runs, in an order in which each finds what it builds on.

    Args:
      settings: ``config.KEY=VALUE`` for every leg that trains.

    Raises:
      UserError: a leg names another that does not come before it.
    """
    for seed in seeds:
        earlier: dict[str, str] = {}
        for arm, legs in study.arms.items():
            before = ""
            for leg in legs:
                out = folder / f"seed{seed}" / arm / leg.name
                names = {"out": str(out), "before": before, "seed": str(seed)} | earlier
                try:
                    arguments = tuple(one.format_map(names) for one in leg.arguments)
                except KeyError as error:
                    raise UserError(
                        f"the leg {leg.name!r} of {arm!r} names {error}, and no leg before it is called so"
                    ) from None
                yield Job(
                    arm,
                    seed,
                    leg,
                    out,
                    arguments + tuple(f"--{one}" for one in settings if leg.trains),
                )
                before = earlier[f"{arm}/{leg.name}"] = str(out)


def numbers(job: Job) -> dict[str, float]:
    """What a finished last leg measured, by name.

    Raises:
      UserError: it left no evaluation.
    """
    file = job.out / "eval.json"
    if not file.is_file():
        raise UserError(f"{job.out} has no eval.json; the last leg of {job.arm!r} has to leave one")
    found = json.loads(file.read_text("utf-8"))
    side = (
        found["after"] if set(found) >= {"before", "after"} else found
    )  # of a run, or of ``corl evaluate``
    return {name: value["value"] for name, value in side.items() if name not in ABOUT}


@dataclasses.dataclass(frozen=True)
class Cell:
    """Mean over seeds, its standard error (None for one seed), and the values themselves in order of the seeds."""

    mean: float
    stderr: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """``stderr`` is ``std / sqrt(n)`` with ddof 1: of the seeds, not of the records."""
        stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(float(np.mean(values)), stderr, tuple(values))


def table(study: Study, finished: Sequence[Job]) -> dict[str, dict[str, Cell]]:
    """Cells by arm and metric, of the arms that have a finished last leg.

    Raises:
      UserError: an evaluation lacks a metric of the study.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for job in finished:
        if job.leg != study.arms[job.arm][-1]:
            continue
        found = numbers(job)
        if missing := [name for name in study.metrics if name not in found]:
            raise UserError(
                f"{job.out / 'eval.json'} has no {missing[0]!r}; it has {', '.join(sorted(found))}"
            )
        for name in study.metrics:
            values.setdefault(job.arm, {}).setdefault(name, []).append(found[name])
    return {
        arm: {name: Cell.of(column) for name, column in row.items()} for arm, row in values.items()
    }


def markdown(study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """The table in per cent, mean and standard error over seeds."""
    rows = ["| | " + " | ".join(f"`{name}`" for name in study.metrics) + " | seeds |"]
    rows.append("|---|" + "---|" * (len(study.metrics) + 1))
    for arm, row in cells.items():
        shown = [percent(row[name].mean, row[name].stderr) for name in study.metrics]
        rows.append(f"| {arm} | {' | '.join(shown)} | {len(row[study.metrics[0]].values)} |")
    return "\n".join(rows)
