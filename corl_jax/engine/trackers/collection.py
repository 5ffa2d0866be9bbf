"""All trackers of a run behind one, with what the work directory keeps of them.

``trackers.json`` has, by tracker, project and id of its run and the newest step that it was given,
so that a run that is resumed goes on with the same curve: steps that a tracker has are not written
again, and those that it lacks are added from ``metrics.jsonl``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import describe_error
from corl_jax.core.files import write_json
from corl_jax.core.private_text import reduce_values
from corl_jax.engine.trackers.base import Pixels, TrackedRun, Tracker
from corl_jax.engine.trackers.tensorboard import TensorBoard
from corl_jax.engine.trackers.trackio_tracker import TrackioTracker, check_trackio
from corl_jax.engine.trackers.wandb_tracker import WandbTracker, check_wandb

TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard.open,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}
"""Name in ``config.trackers.names`` to what opens the tracker."""

PACKAGE_CHECKS: dict[str, Callable[[], Any]] = {"wandb": check_wandb, "trackio": check_trackio}
"""Name to what raises a UserError where the package of a tracker is not installed."""

STATE_FILE = "trackers.json"


@dataclasses.dataclass
class _Opened:
    """A tracker that is written to.

    Attributes:
      last_step: the newest step that it has.
    """

    name: str
    project: str
    id: str
    tracker: Tracker
    last_step: int


class Trackers:
    """Several trackers, or none.

    A tracker that is no service, such as TensorBoard, fails like any file of the run. Of a service
    the error is printed once; the run goes on without it, and a resumed run adds what it lacks.

    Args:
      path: of the file that says what each tracker was given; None keeps nothing.
      every: steps between rows; a step with images or texts is written whatever its number.
    """

    def __init__(self, path: Path | None = None, every: int = 1):
        self._path, self._every = path, every
        self._opened: list[_Opened] = []

    @classmethod
    def open(
        cls,
        names: Sequence[str],
        every: int,
        folder: Path,
        *,
        project: str,
        run_name: str,
        config: Mapping[str, Any],
    ) -> Trackers:
        """Begins, or goes on, with the trackers of these names; none where ``every`` is 0.

        Args:
          folder: work directory.
          project, run_name: of every tracker that has such things.
          config: of the run; folders of this machine are left out of it.

        Raises:
          UserError: one of them cannot be opened; the others are closed again.
        """
        trackers = cls(folder / STATE_FILE, every)
        known = _read_state(trackers._path) if trackers._path else {}
        shown = reduce_values(json.loads(json.dumps(config)))
        try:
            for name in names if every else ():
                state = known.get(name)
                # In another project it is another run, which begins with the first step.
                if state is None or state["project"] != project:
                    state = {"project": project, "id": uuid.uuid4().hex[:8], "last_step": -1}
                run = TrackedRun(folder, project, run_name, state["id"], shown, state["last_step"])
                tracker = TRACKERS[name](run)
                trackers._opened.append(
                    _Opened(name, project, state["id"], tracker, tracker.last_step)
                )
        except BaseException:
            trackers.close(is_complete=False)
            raise
        trackers._write_state()
        return trackers

    def rewind(self, steps_done: int, rows: Iterable[Mapping[str, float]]) -> None:
        """Goes on from ``steps_done``, -1 for a new run, and adds what a tracker lacks until then.

        Args:
          rows: of ``metrics.jsonl``, those of earlier starts.
        """
        for opened in list(self._opened):
            with self._errors_of(opened):
                opened.tracker.rewind(steps_done)
                opened.last_step = opened.tracker.last_step
        for row in rows if self._opened else ():
            step = int(row["step"])
            if step % self._every == 0:
                self.write(step, {name: value for name, value in row.items() if name != "step"})

    def write(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Pixels] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Adds a step to every tracker that does not have it, if it is one to be shown."""
        images, texts = images or {}, texts or {}
        if not self._opened or (step % self._every and not images and not texts):
            return
        # No tracker can show numbers that are not finite.
        finite = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        lacking = [opened for opened in self._opened if opened.last_step < step]
        for opened in lacking:
            with self._errors_of(opened):
                opened.tracker.write(step, finite, images, texts)
                opened.last_step = step
        if lacking:
            self._write_state()

    def write_evaluation(self, side: str, step: int, metrics: Mapping[str, float]) -> None:
        """Shows what was measured ``before`` or ``after`` the run."""
        for opened in list(self._opened):
            with self._errors_of(opened):
                opened.tracker.write_evaluation(side, step, metrics)

    def flush(self) -> None:
        """Brings what was written to where it is kept."""
        for opened in list(self._opened):
            with self._errors_of(opened):
                opened.tracker.flush()

    def close(self, is_complete: bool = True) -> None:
        """Ends all of them."""
        for opened in list(self._opened):
            with self._errors_of(opened):
                opened.tracker.close(is_complete)
        self._opened = []

    @contextlib.contextmanager
    def _errors_of(self, opened: _Opened) -> Iterator[None]:
        """A block in which a service may fail, after which it is not written to any more."""
        try:
            yield
        except Exception as error:
            if not opened.tracker.is_service:
                raise
            self._opened = [other for other in self._opened if other is not opened]
            print(
                f"the tracker {opened.name} failed after step {opened.last_step} "
                f"({describe_error(error)}); the run goes on without it, and adds what it lacks "
                "when the same command resumes",
                file=sys.stderr,
            )

    def _write_state(self) -> None:
        """Notes what every tracker has; those that this start does not write to are kept."""
        if self._path is None or not self._opened:
            return
        state = _read_state(self._path)
        for opened in self._opened:
            state[opened.name] = {
                "project": opened.project,
                "id": opened.id,
                "last_step": opened.last_step,
            }
        write_json(self._path, state)


def check_packages(names: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in names:
        if name in PACKAGE_CHECKS:
            PACKAGE_CHECKS[name]()


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    """Tracker to project, id and newest step."""
    if not path.exists():
        return {}
    saved = JsonObject.read(path, advice="remove the file, and curves begin anew")
    state = {}
    for name in saved.entries:
        block = saved.block(name)
        state[name] = {
            "project": block.text("project"),
            "id": block.text("id"),
            "last_step": block.integer("last_step", low=-1),
        }
    return state
