"""Progress on the screen: bars on a terminal; in a file, such as the log of a CI job, one line every few seconds."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

PLAIN_INTERVAL_SECONDS = 15.0
"""Seconds between two lines of one step where the output is no terminal."""


class _BarWithTotal(BarColumn):
    """A bar for steps whose total is known; nothing for the others."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        return super().render(task) if task.total else Text()  # type: ignore[return-value]


class _Terminal:
    """The live area at the bottom of one terminal, shared by all steps that run at the same time."""

    def __init__(self, *, err: bool) -> None:
        self._console = Console(stderr=err, markup=False, emoji=False, highlight=False)
        self._err = err
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    def begin(self, title: str) -> TaskID:
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    _BarWithTotal(bar_width=24),
                    TextColumn("{task.fields[detail]}", markup=False),
                    TimeElapsedColumn(),
                    console=self._console,
                    transient=True,
                    # Text that other code prints meanwhile goes above the live area.
                    redirect_stdout=not self._err,
                    redirect_stderr=False,
                )
                self._progress.start()
            return self._progress.add_task(title, total=None, detail="")

    def show(self, task: TaskID, done: float | None, total: float | None, detail: str) -> None:
        if self._progress is not None:
            self._progress.update(task, completed=done, total=total, detail=detail)

    def finish(self, task: TaskID, line: str) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.remove_task(task)
                if not self._progress.tasks:
                    self._progress.stop()
                    self._progress = None
            self._console.print(line, soft_wrap=True)


_terminal = functools.cache(_Terminal)
_print_lock = threading.Lock()


class Step:
    """One piece of work with a title. Steps may run at the same time, each in its own thread.

    err: on standard error instead of standard output. `outcome` is printed at the end by `step`.
    """

    def __init__(self, title: str, *, err: bool = False, indent: str = "  ") -> None:
        self.title = title
        self.outcome = "done"
        self._started = time.monotonic()
        self._printed_at = self._started
        self._err, self._indent = err, indent
        live = (sys.stderr if err else sys.stdout).isatty()
        self._terminal = _terminal(err=err) if live else None
        self._task = self._terminal.begin(indent + title) if self._terminal else TaskID(0)

    def update(self, done: float, total: float, detail: str = "") -> None:
        """Shows `done` of `total`, in any unit, and a few words on the current item."""
        self._show(done, total, detail)

    def note(self, detail: str) -> None:
        """Shows the current item where no total is known."""
        self._show(None, None, detail)

    def _show(self, done: float | None, total: float | None, detail: str) -> None:
        if self._terminal:
            self._terminal.show(self._task, done, total, detail)
            return
        now = time.monotonic()
        if now - self._printed_at < PLAIN_INTERVAL_SECONDS:
            return
        self._printed_at = now
        share = f"{min(done / total, 1.0):.0%} " if done is not None and total else ""
        self._print(f"{self._indent}{self.title}: {share}{detail} ({now - self._started:.0f} s)")

    def finish(self, outcome: str) -> None:
        """Prints the line that stays: title, outcome, and the seconds that the step took."""
        line = f"{self._indent}{self.title}: {outcome} ({time.monotonic() - self._started:.1f} s)"
        if self._terminal:
            self._terminal.finish(self._task, line)
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        with _print_lock:
            print(line, file=sys.stderr if self._err else sys.stdout, flush=True)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """A step that ends with its `outcome`, or with "failed" where an exception passes through."""
    current = Step(title)
    if not sys.stdout.isatty():
        print(f"  {title}: ...", flush=True)
    try:
        yield current
    except BaseException:
        current.finish("failed")
        raise
    current.finish(current.outcome)
