"""Processes: starting children of a container's first process, which reaps them itself; looking whether one lives."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


def spawn(command: list[str], environ: Mapping[str, str] | None = None, output: int | None = None) -> int:
    """Start ``command`` in a process group of its own, without input; returns its process id.

    ``output`` is the descriptor for what it prints; without one it prints where this process does.

    Not by ``subprocess``: it reaps children itself whenever it starts another one, so that the caller's ``waitpid(-1)``
    would miss their exit status.

    Raises:
        OSError: when the program cannot be run.
    """
    redirected = [] if output is None else [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    return os.posix_spawnp(
        command[0],
        command,
        os.environ if environ is None else environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *redirected],
        setsid=True,
        setsigdef=[signal.SIGPIPE],  # Python ignores SIGPIPE, and a child would inherit that
    )


def alive(pid: int) -> bool:
    """True if the process runs; one that has ended and was not reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
