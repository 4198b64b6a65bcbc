"""Processes: starting children of a container's first process, which reaps them itself; looking whether one lives."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping

RUN_VARIABLE = b"FUTURE_KUBERNETES_BATCH_RUN="
"""Environment variable by which the processes of a batch run are known, also those that R starts (cli/pod_agent.py)."""
_TICK = os.sysconf("SC_CLK_TCK")


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


def descends(pid: int, ancestor: int) -> bool:
    """True if a process is the ancestor itself or has been started by it, directly or not."""
    while pid > 1 and pid != ancestor:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                pid = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return pid == ancestor


def cpu_seconds(pid: int) -> float | None:
    """CPU time of a process so far, with that of the children that it has waited for; None where it is not known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:15])) / _TICK
    except (OSError, ValueError, IndexError):
        return None


def run_of(pid: int) -> str:
    """Name of the batch run that a process belongs to; empty for none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = [entry for entry in file.read().split(b"\0") if entry.startswith(RUN_VARIABLE)]
    except OSError:
        return ""
    name = found[0].removeprefix(RUN_VARIABLE).decode(errors="replace") if found else ""
    return name if re.fullmatch(r"[0-9a-z-]{1,40}", name) else ""
