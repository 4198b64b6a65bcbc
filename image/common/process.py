"""Starts the children of a container's first process, which reaps every child itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


def spawn(command: list[str], environ: Mapping[str, str] | None = None) -> int:
    """Start ``command`` as a process group of its own, without input; its process id.

    Not ``subprocess``: it collects children by itself whenever it starts another, and takes the exit status away
    from the caller's ``waitpid(-1)``.

    Raises:
        OSError: when the program cannot be run.
    """
    return os.posix_spawnp(
        command[0],
        command,
        os.environ if environ is None else environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
        setsigdef=[signal.SIGPIPE],  # Python ignores it, and what it starts would inherit that
    )
