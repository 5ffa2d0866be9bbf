"""How far a run is, with some of its metrics, on stderr."""

from __future__ import annotations

from collections.abc import Mapping

from corl_jax.core.progress import ProgressBar


class TrainingProgress:
    """The bar of a run, with some metrics.

    Args:
      total_steps: steps of the run.
      steps_done: steps that were done before.
      columns: metrics to show, in order, under their whole names; those that a row lacks are left
        out.
      label: of the run.
      quiet: no bar.
    """

    def __init__(
        self,
        total_steps: int,
        steps_done: int,
        columns: tuple[str, ...],
        label: str = "training",
        quiet: bool = False,
    ):
        self._columns, self._steps_done = columns, steps_done
        self._bar = ProgressBar(total_steps, done=steps_done, label=label, unit="step", quiet=quiet)

    def show_status(self, status: str) -> None:
        """Says what is being done until the next row, such as ``compiling``."""
        self._bar.show_status(status)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Moves the bar to ``step``."""
        values = [f"{name}={row[name]:.3g}" for name in self._columns if name in row]
        self._bar.update(step - self._steps_done, " ".join(values))
        self._steps_done = step

    def print_line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.print_line(text)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
