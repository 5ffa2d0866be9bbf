"""Progress on stderr: a bar on a terminal, and a line every half minute in a log.

Both say what is being done, how far it is and how long it has taken; time goes on while nothing else
does, as during a compilation. All is ASCII, so that any terminal and any log can show it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Between two lines of a log."""
USUAL_SIZE = (120, 24)
"""Columns and rows of a terminal without a size, as under ``docker run -t`` or ``script``."""
WIDE = 120
"""From so many columns on there is room for the bar itself beside the numbers."""
REFRESH_SECONDS = 1.0
"""Between two looks of the thread, also how often a bar is drawn anew."""
BAR = "{desc}: {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
NARROW_BAR = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
BUSY_BAR = "{desc}: {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
"""Of a bar; while it says what it is busy with, there is no rate."""


class ProgressBar:
    """How far something is.

    Args:
      total: units of it.
      done: units that were done before.
      label: what it is.
      unit: one of them.
      quiet: prints nothing.
      delay: seconds until it appears; what is shorter is not worth a bar.
    """

    def __init__(
        self,
        total: int,
        *,
        label: str,
        unit: str,
        done: int = 0,
        quiet: bool = False,
        delay: float = 0.0,
    ):
        self._total, self._done, self._label, self._unit = total, done, label, unit
        self._delay = delay
        self._quiet, self._is_terminal = quiet, sys.stderr.isatty()
        self._status, self._details = "", ""
        self._begin = self._last_line = time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()

        columns = _terminal_columns()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            file=sys.stderr,
            ascii=True,
            mininterval=1.0,
            dynamic_ncols=columns > 0,
            ncols=None if columns else USUAL_SIZE[0],
            nrows=None if columns else USUAL_SIZE[1],
            unit=unit,
            bar_format=BAR,
            delay=delay,
            disable=quiet or not self._is_terminal,
        )
        self._thread = threading.Thread(target=self._tick, name=f"progress: {label}", daemon=True)
        if not quiet:
            self._thread.start()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def show_status(self, status: str) -> None:
        """Says what is being done until the next ``update``, such as ``compiling``."""
        with self._lock:
            self._status = status
            self._bar.bar_format = BUSY_BAR
            self._bar.set_postfix_str(status, refresh=True)
            self._print_progress()

    def update(self, count: int = 1, details: str = "") -> None:
        """Moves on by ``count`` units; ``details`` stand behind the numbers."""
        with self._lock:
            self._done, self._details = self._done + count, details
            was_busy, self._status = bool(self._status), ""
            is_narrow = 0 < _terminal_columns() < WIDE
            self._bar.bar_format = NARROW_BAR if is_narrow else BAR
            self._bar.set_postfix_str(details, refresh=False)
            self._bar.update(count)
            # In a log the first unit is news: whatever was waited for is there.
            if was_busy or self._done == self._total or self._is_line_due():
                self._print_progress()

    def print_line(self, text: str) -> None:
        """Prints a line above the bar."""
        with self._lock:
            if self._is_terminal:
                self._bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar's line."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bar.close()

    def _tick(self) -> None:
        """Lets time go on while nothing else does."""
        while not self._ended.wait(REFRESH_SECONDS):
            with self._lock:
                if self._is_terminal:
                    self._bar.refresh()
                elif self._is_line_due():
                    self._print_progress()

    def _is_line_due(self) -> bool:
        return time.monotonic() - self._last_line >= LINE_SECONDS

    def _print_progress(self) -> None:
        """The state as a line of a log."""
        if self._quiet or self._is_terminal or self.seconds < self._delay:
            return
        self._last_line = time.monotonic()
        text = self._status or self._details
        parts = [f"{self._done}/{self._total} {self._unit}s", format_seconds(self.seconds)]
        print(
            f"{self._label}: {', '.join(parts)}{f', {text}' if text else ''}",
            file=sys.stderr,
            flush=True,
        )

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begin


def _terminal_columns() -> int:
    """Columns of the terminal; 0 where nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # stderr is no terminal, or no file at all
        return 0


def format_seconds(seconds: float) -> str:
    """Such as ``42 s`` or ``12 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
