"""Starts child processes of a container's first process, which reaps every child itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


def spawn(command: list[str], environ: Mapping[str, str] | None = None) -> int:
    """Start ``command`` in a process group of its own, without input; returns its process id.

    Not by ``subprocess``: it reaps children itself whenever it starts another one, so that the caller's ``waitpid(-1)``
    would miss their exit status.

    Raises:
        OSError: when the program cannot be run.
    """
    return os.posix_spawnp(
        command[0],
        command,
        os.environ if environ is None else environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
        setsigdef=[signal.SIGPIPE],  # Python ignores SIGPIPE, and a child would inherit that
    )
