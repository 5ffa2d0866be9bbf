"""Compares several ways to train, each over several seeds, by the evaluations that they leave.

A study is data (``configs/studies.py``): arms, and for each arm the commands that train and
evaluate a policy. ``corl study`` runs the commands that have not been run yet and writes a table
and plots.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.report.metric_text import format_number
from corl_jax.studies.task_order import TaskOrder

NOT_METRICS = ("about",)
"""Entries of the file of ``corl evaluate`` that are not metrics."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of an arm.

    Attributes:
      name: of the folder in which the command leaves its files.
      arguments: those of ``python -m``. ``{out}`` is the folder of this command, ``{before}`` that
        of the command before it in the arm, ``{ARM/COMMAND}`` that of a command of an earlier arm
        with the same seed, and ``{seed}`` the seed.
      trains: whether it takes the settings of ``corl study --set``.
    """

    name: str
    arguments: tuple[str, ...]
    trains: bool = True


class Expectation(NamedTuple):
    """A part of a claim that figures can decide.

    Attributes:
      arm: of the study.
      relation: ``above``: its metric is higher than that of ``other``; ``like``: there is no
        difference, which figures can contradict but not show.
      other: the arm that it is compared with.
      metric: a column of the study.
    """

    arm: str
    relation: Literal["above", "like"]
    other: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
      question: that the study answers, in one sentence.
      claim: what the paper says, and where.
      arms: commands by arm, in the order of the table. The last command of an arm leaves
        ``eval.json``. The first arm is what the others are compared with.
      metrics: names in ``eval.json``, the first columns of the table.
      expectations: what the claim says of these arms and columns; none where it says nothing.
      means: further columns, each the mean of some of the metrics.
      order: the tasks of a study of their order, whose claim is that the order that its figures
        prescribe is best; None for other studies.
    """

    question: str
    claim: str
    arms: Mapping[str, tuple[Command, ...]]
    metrics: tuple[str, ...]
    expectations: tuple[Expectation, ...] = ()
    means: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    order: TaskOrder | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns of the table."""
        return (*self.metrics, *self.means)

    def __post_init__(self):
        for name, commands in self.arms.items():
            if not commands:
                raise UserError(
                    f"an arm of a study must have at least one command; {name!r} has none. "
                    "Add the command that leaves its eval.json"
                )
        for name, parts in self.means.items():
            if name in self.metrics or not parts or not {*parts} <= {*self.metrics}:
                raise UserError(
                    "a mean must have a name of its own and be of metrics of its study; got "
                    f"{name!r} of {parts}. Expected some of {', '.join(self.metrics)}"
                )
        for arm, _, other, metric in self.expectations:
            if not {arm, other} <= self.arms.keys() or metric not in self.columns:
                raise UserError(
                    "an expectation must be of arms and a metric of its study; got "
                    f"{arm!r}, {other!r} and {metric!r}. Expected two of {', '.join(self.arms)} "
                    f"and one of {', '.join(self.columns)}"
                )
        if self.order is not None:
            unknown = {*self.order.arms} - self.arms.keys()
            unknown |= {*self.order.columns.values(), self.order.score} - {*self.columns}
            if unknown:
                raise UserError(
                    "an order of tasks must name arms and columns of its study; got "
                    f"{', '.join(sorted(unknown))}. Expected some of "
                    f"{', '.join((*self.arms, *self.columns))}"
                )


@dataclasses.dataclass(frozen=True)
class CommandRun:
    """One command of one arm with one seed.

    Attributes:
      arm: name of the arm.
      seed: of the run.
      command: as in the study.
      folder: made by the command when it is run.
      arguments: those of the command with all placeholders filled in.
    """

    arm: str
    seed: int
    command: Command
    folder: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether the command was run to its end with these arguments.

        Raises:
          UserError: it was run with other arguments.
        """
        if not self._done_file.is_file():
            return False
        # A folder of other arguments would silently mix two studies.
        arguments = JsonObject.read(self._done_file).texts("arguments")
        if arguments != self.arguments:
            changed = " ".join(sorted(set(arguments) ^ set(self.arguments)))
            raise UserError(
                f"a study must go on with the arguments it began with; {self.folder} was run with "
                f"other arguments ({changed}). Choose another folder with --out"
            )
        return True

    def mark_done(self, seconds: float) -> None:
        """Records that the command was run to its end, and how long it took."""
        write_json(self._done_file, {"arguments": self.arguments, "seconds": seconds})

    @property
    def log(self) -> pathlib.Path:
        """File for what the command prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def _done_file(self) -> pathlib.Path:
        # Next to the folder: a command may refuse a folder that is not empty.
        return self.folder.with_name(f"{self.folder.name}.json")


def plan_runs(
    study: Study, seeds: Sequence[int], folder: pathlib.Path, settings: Sequence[str] = ()
) -> Iterator[CommandRun]:
    """Everything that a study runs, in an order in which every command finds what it builds on.

    Args:
      study: what is compared.
      seeds: of training; each runs all arms.
      folder: of the study; a command leaves its files in ``seedS/ARM/COMMAND``.
      settings: ``config.KEY=VALUE`` for every command that trains.

    Raises:
      UserError: a command refers to another one that does not come before it.
    """
    for seed in seeds:
        # Folders of earlier commands with this seed, by ARM/COMMAND.
        folders: dict[str, str] = {}
        for arm, commands in study.arms.items():
            # The first command of an arm has none before it.
            before = ""
            for command in commands:
                out = folder / f"seed{seed}" / arm / command.name
                placeholders = {"out": str(out), "before": before, "seed": str(seed)} | folders
                arguments = _fill_in(command, arm, placeholders)
                # Settings of the command line go last, so that they win over those of the study.
                if command.trains:
                    arguments += tuple(f"--{setting}" for setting in settings)

                yield CommandRun(arm, seed, command, out, arguments)
                before = folders[f"{arm}/{command.name}"] = str(out)


def _fill_in(command: Command, arm: str, placeholders: Mapping[str, str]) -> tuple[str, ...]:
    """The arguments of ``command`` with placeholders replaced."""
    # The keys contain slashes ({ARM/COMMAND}), which keyword arguments could not.
    try:
        return tuple(argument.format_map(placeholders) for argument in command.arguments)
    except KeyError as error:
        raise UserError(
            f"a command may refer to earlier commands only; {command.name!r} of the arm {arm!r} "
            f"refers to {error}, and no earlier command has this name. "
            f"Expected one of {', '.join(placeholders)}"
        ) from None


def read_metrics(run: CommandRun) -> dict[str, float]:
    """The metrics that the last command of an arm left, by name.

    Raises:
      UserError: there is no ``eval.json``.
    """
    path = run.folder / "eval.json"
    if not path.is_file():
        raise UserError(
            f"the last command of an arm must leave eval.json; {run.arm!r} left none in "
            f"{run.folder}. Let it end with corl evaluate"
        )

    evals = JsonObject.read(path)
    # The file of a run has two sides; that of corl evaluate has the metrics at the top.
    metrics = evals.block("after") if evals.entries.keys() >= {"before", "after"} else evals
    return {
        name: metrics.block(name).number("value")
        for name in metrics.entries
        if name not in NOT_METRICS
    }


@dataclasses.dataclass(frozen=True)
class Cell:
    """One metric of one arm over all seeds.

    Attributes:
      mean: over seeds.
      stderr: standard error of the mean, None for one seed.
      values: one per seed, in the order of the seeds.
    """

    mean: float
    stderr: float | None
    values: tuple[float, ...]

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Cell:
        """``stderr`` is ``std / sqrt(n)`` with ddof 1, over seeds and not over records."""
        stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(float(np.mean(values)), stderr, tuple(values))


def make_table(study: Study, finished: Sequence[CommandRun]) -> dict[str, dict[str, Cell]]:
    """Cells by arm and metric.

    Args:
      study: what is compared.
      finished: runs that are done; arms whose last command is not among them have no row.

    Raises:
      UserError: an ``eval.json`` lacks a metric of the study.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for run in finished:
        # Only the last command of an arm leaves an evaluation.
        if run.command != study.arms[run.arm][-1]:
            continue

        metrics = read_metrics(run)
        if missing := [name for name in study.metrics if name not in metrics]:
            raise UserError(
                f"{run.folder / 'eval.json'} must contain every metric of the study; it has no "
                f"{missing[0]!r}. Expected one of {', '.join(sorted(metrics))}"
            )
        # Runs come seed by seed, so values are in the order of the seeds.
        for name in study.metrics:
            values.setdefault(run.arm, {}).setdefault(name, []).append(metrics[name])

    # A mean is taken seed by seed, so that its error is over seeds like those of its parts.
    for row in values.values():
        for name, parts in study.means.items():
            row[name] = np.mean([row[part] for part in parts], axis=0).tolist()
    return {
        arm: {name: Cell.from_values(column) for name, column in row.items()}
        for arm, row in values.items()
    }


def format_cell(name: str, cell: Cell) -> str:
    """Mean and standard error over seeds: of shares in per cent, of rewards as they are."""
    error = "" if cell.stderr is None else f" ± {format_number(name, cell.stderr)}"
    return format_number(name, cell.mean) + error


def render_markdown(study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """The table: mean and standard error over seeds."""
    # Head, rule, then one line per arm.
    lines = ["| | " + " | ".join(f"`{name}`" for name in study.columns) + " | seeds |"]
    lines.append("|---|" + "---|" * (len(study.columns) + 1))
    for arm, row in cells.items():
        texts = [format_cell(name, row[name]) for name in study.columns]
        seeds = len(row[study.metrics[0]].values)
        lines.append(f"| {arm} | {' | '.join(texts)} | {seeds} |")
    return "\n".join(lines)
