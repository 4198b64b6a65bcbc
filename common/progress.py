"""Progress on the screen: one live line on a terminal, and a line every few seconds where the output goes to a file.

Standard library only: `batch` uses it too.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BAR_WIDTH = 24
_PLAIN_INTERVAL_SECONDS = 15.0
_print_lock = threading.Lock()


class Step:
    """One named piece of work; several may run at once in threads of their own. out: standard output unless given."""

    def __init__(self, title: str, out: TextIO | None = None, indent: str = "  ") -> None:
        self.title = title
        self.outcome = "done"
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._out, self._indent = out, indent
        self._live = (out or sys.stdout).isatty()

    def update(self, done: float, total: float, detail: str = "") -> None:
        """Shows how far it is: `done` of `total` in any unit, and a word on what is at hand."""
        share = min(done / total, 1.0) if total else 0.0
        filled = round(share * _BAR_WIDTH)
        self._show(f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%} {detail}")

    def note(self, detail: str) -> None:
        """Shows what is at hand where no total is known."""
        self._show(detail)

    def _show(self, detail: str) -> None:
        now = time.monotonic()
        if now - self._shown_at < (0.1 if self._live else _PLAIN_INTERVAL_SECONDS):
            return
        self._shown_at = now
        line = f"{self._indent}{self.title}: {detail} ({now - self._started:.0f} s)"
        if self._live:
            self._print(f"\r\033[K{line[:118]}", end="")
        else:
            self._print(line)

    def finish(self, outcome: str) -> None:
        """Leaves one line behind: the title, the outcome and the seconds it took."""
        clear = "\r\033[K" if self._live else ""
        self._print(f"{clear}{self._indent}{self.title}: {outcome} ({time.monotonic() - self._started:.1f} s)")

    def _print(self, text: str, end: str = "\n") -> None:
        with _print_lock:
            print(text, end=end, file=self._out, flush=True)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """A step that says its `outcome` ("done") at its end, or `failed` where an exception passes through."""
    current = Step(title)
    current._show("...")
    try:
        yield current
    except BaseException:
        current.finish("failed")
        raise
    current.finish(current.outcome)
