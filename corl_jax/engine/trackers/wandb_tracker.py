"""Weights & Biases as a tracker (``pip install 'corl_jax[wandb]'``).

Its library sends in a process of its own and keeps what it cannot send, so a network that fails
does not hold the run. Where it sends to is read from its environment: ``WANDB_MODE``,
``WANDB_ENTITY``, ``WANDB_DIR``, and the key that ``wandb login`` has stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.engine.trackers.base import Pixels, TrackedRun

START_SECONDS, FINISH_SECONDS = 60.0, 120.0
"""How long the first answer may take, and the last upload. What is late stays on the disk."""

QUIET_SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "email": "",
    "host": "",
    "program": "corl_jax",
    "save_code": False,
    "silent": True,
    "username": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
}
"""Nothing goes out but what this class writes: no code, output, packages, host, user or git remote. Its
file is written every second, so that a run that is killed offline has its rows."""


class WandbTracker:
    """A run of Weights & Biases, by the id that the work directory keeps.

    Raises:
      UserError: the package is missing, nobody is logged in, or there is no answer.
    """

    is_service = True

    def __init__(self, run: TrackedRun):
        wandb = check_wandb()
        try:
            self._run = wandb.init(
                project=run.project,
                id=run.id,
                name=run.name,
                resume="allow",
                config=dict(run.config),
                settings=wandb.Settings(
                    init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS, **QUIET_SETTINGS
                ),
            )
        # Its errors have many classes, and to a user all of them mean the same.
        except Exception as error:
            raise UserError(
                f"the tracker wandb must be reachable; got {type(error).__name__}: "
                f"{' '.join(str(error).split())}. Check the network and wandb login, set "
                "WANDB_MODE=offline to send later, or leave it out of config.trackers.names"
            ) from error
        # Offline it does not know what earlier starts have written.
        self.last_step = max(run.last_step, self._run.step - 1)

    def rewind(self, steps_done: int) -> None:
        """Does nothing: steps that it has are the same when they come again."""

    def write(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Pixels],
        texts: Mapping[str, str],
    ) -> None:
        """Hands the step over as a whole, so that a run that is killed has lost none."""
        import wandb

        values: dict[str, Any] = dict(row)
        values |= {name: wandb.Image(pixels) for name, pixels in images.items()}
        # A table would be an artifact, whose record has a path of this machine.
        for name, text in texts.items():
            html = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
            values[name] = wandb.Html(html, inject=False)
        self._run.log(values, step=step, commit=True)

    def write_evaluation(self, side: str, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics to the summary, where they need no step."""
        self._run.summary.update(
            {f"evaluation/{side}/{name}": value for name, value in metrics.items()}
        )

    def flush(self) -> None:
        """Does nothing: what was logged is with another process."""

    def close(self, is_complete: bool) -> None:
        """Waits until everything is sent, at most ``FINISH_SECONDS``."""
        self._run.finish(exit_code=0 if is_complete else 1)


def check_wandb() -> Any:
    """The package ``wandb``.

    Raises:
      UserError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "the tracker wandb needs its package; it is not installed. "
            "Run pip install 'corl_jax[wandb]'"
        ) from error
    return wandb
