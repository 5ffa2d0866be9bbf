"""trackio as a tracker (``pip install 'corl_jax[trackio]'``).

It writes to a local database in a thread, which ``trackio show`` shows, or sends to a Space that
``TRACKIO_SPACE_ID`` names, and keeps what it cannot send. ``TRACKIO_DIR`` says where the database is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.engine.trackers.base import Pixels, TrackedRun, as_code


class TrackioTracker:
    """A run of trackio, which knows runs by their names: name and id make one.

    Raises:
      UserError: the package is missing, or it cannot begin.
    """

    is_service = True

    def __init__(self, run: TrackedRun):
        trackio = check_trackio()
        try:
            # It prints where the run is, and stdout is for results.
            with contextlib.redirect_stdout(sys.stderr):
                self._run = trackio.init(
                    project=run.project,
                    name=f"{run.name}-{run.id}",
                    resume="allow",
                    config=dict(run.config),
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
            stored = self._run._next_step - 1
        # Its errors have many classes, and to a user all of them mean the same.
        except Exception as error:
            raise UserError(
                f"the tracker trackio must be able to begin; got {type(error).__name__}: "
                f"{' '.join(str(error).split())}. Check TRACKIO_DIR, TRACKIO_SPACE_ID and "
                "hf auth login, or leave it out of config.trackers.names"
            ) from error
        # The account of the Hugging Face hub that is logged in here.
        self._run.config["_Username"] = None
        # The database has what it was given, but for the last half second of a killed run. A Space
        # that does not answer knows nothing.
        self.last_step = stored if stored >= 0 else run.last_step

    def rewind(self, steps_done: int) -> None:
        """Does nothing: steps that it has are the same when they come again."""

    def write(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Pixels],
        texts: Mapping[str, str],
    ) -> None:
        """Adds the step."""
        import trackio

        values: dict[str, Any] = dict(row)
        values |= {name: trackio.Image(pixels) for name, pixels in images.items()}
        for name, text in texts.items():
            values[name] = trackio.Markdown(as_code(text))
        self._run.log(values, step=step)

    def write_evaluation(self, side: str, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics: a curve has its value before the run and the one after it."""
        values = {f"evaluation/{name}": value for name, value in metrics.items()}
        self._run.log(values, step=step)

    def flush(self) -> None:
        """Does nothing: a thread writes twice a second."""

    def close(self, is_complete: bool) -> None:
        """Waits until everything is written, at most half a minute."""
        import trackio

        # Its own function, or trackio would end the run once more when Python ends.
        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()


def check_trackio() -> Any:
    """The package ``trackio``.

    Raises:
      UserError: it is not installed.
    """
    try:
        import trackio
    except ImportError as error:
        raise UserError(
            "the tracker trackio needs its package; it is not installed. "
            "Run pip install 'corl_jax[trackio]'"
        ) from error
    return trackio
