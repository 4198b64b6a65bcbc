"""Lets the time of day of a process jump, as NTP or a suspended machine does; its monotonic clock goes on."""

from __future__ import annotations

import time
from pathlib import Path


def first(file: Path) -> str:
    """The value of TEST_FIRST with which a process of a bed calls ``install`` with this file."""
    return f"import pathlib; from tests.broker import jumping; jumping.install(pathlib.Path({str(file)!r}))"


def install(file: Path) -> None:
    """Add the seconds in ``file`` to this process's time of day, if it is there."""
    real = time.time

    def jumped() -> float:
        return real() + (float(file.read_text() or 0) if file.exists() else 0.0)

    time.time = jumped
