"""Memory of the scheduler's pod, and the processes that the kernel has ended for want of it.

The control group counts such ends and does not name the process. So the R processes of the pod are looked at once a
second, and less often while most of the memory is free: one that is gone when the count has risen was the one. Where
the kernel ends the whole container instead (Kubernetes' default with cgroup v2, on clusters of others),
``restart_notice.py`` has the text, and passes it to this record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import cgroup, out_of_memory
from .log import log

FILE = "memory-notice"
"""For the next R session outside of notebooks, which removes it (``etc/Rprofile``)."""

_CHECK_SECONDS = 1.0
REST_SECONDS = 4.0
"""Interval while the pod uses less than a quarter of its memory: to fill the rest takes a session longer."""
_USAGE_SECONDS = 3.0
_PATIENCE_CHECKS = 5
"""On a busy machine a process takes a while to begin its end after its kill was counted."""
_DEATHS = 20
_EXITING = 0x4
"""PF_EXITING of linux/sched.h, in the flags of /proc/PID/stat: its end has begun, and may take seconds to free all."""
_COMMANDS = (b"R", b"rsession")
"""Names that the kernel has for processes that run R."""


class Memory:
    """Memory that the pod uses, and processes that ended for want of it."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._proc = environ.get("FUTURE_KUBERNETES_PROC", "/proc")
        self._kills = cgroup.oom_kills()
        self._processes = r_processes(self._proc)
        self._unexplained = 0
        self._checks = 0
        self._usage: tuple[int, int | None] | None = None
        self._measured = -_USAGE_SECONDS
        self.deaths: deque[dict[str, Any]] = deque(maxlen=_DEATHS)
        """The last ones: ``at`` in seconds of the epoch, ``what`` and ``cure`` in words."""

    def usage(self) -> tuple[int, int | None] | None:
        """Memory and limit of the pod in MiB, at most 3 seconds old; None where the control group has no figures."""
        if time.monotonic() - self._measured >= _USAGE_SECONDS:
            used = cgroup.memory_mib()
            self._usage = None if used is None else (used, cgroup.memory_limit_mib())
            self._measured = time.monotonic()
        return self._usage

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self.pause())
            self.check()

    def pause(self) -> float:
        """Seconds until the next look: an idle pod would be woken most often by these."""
        usage = None if self._unexplained else self.usage()
        return REST_SECONDS if usage and usage[1] and usage[0] * 4 < usage[1] else _CHECK_SECONDS

    def check(self) -> None:
        """Note what has ended for want of memory since the last time."""
        # The processes first: one that ends between the two is then found by the next check.
        now = r_processes(self._proc)
        before, self._processes = self._processes, now
        kills = cgroup.oom_kills()
        if kills > self._kills:
            self._unexplained += kills - self._kills
            self._checks = 0
        self._kills = kills
        if not self._unexplained:
            return
        gone = [pid for pid in before if pid not in now]
        for pid in sorted(gone, key=lambda pid: before[pid] == "r")[: self._unexplained]:
            self._unexplained -= 1
            self._ended(before[pid], pid)
        self._checks += 1
        if self._unexplained and self._checks > _PATIENCE_CHECKS:
            self._unexplained = 0
            self._ended("", 0)

    def _ended(self, kind: str, pid: int) -> None:
        limit = cgroup.memory_limit_mib()
        text = out_of_memory.ended(kind, pid, time.time(), limit)
        log(text)
        what = out_of_memory.KINDS.get(kind, "process")
        self.note(f"{what}{f' (process {pid})' if pid else ''}: {out_of_memory.limit(limit)}", limit)
        if kind in ("rstudio", "r"):  # a notebook says it in the cell: etc/future_kubernetes_memory.py
            with contextlib.suppress(OSError):
                write_whole(self._folder / FILE, text)

    def note(self, what: str, limit_mib: float | None) -> None:
        """Add to the record."""
        self.deaths.append({"at": round(time.time(), 1), "what": what, "cure": out_of_memory.advice(limit_mib)})


def write_whole(file: Path, text: str) -> None:
    """Write a notice whole: a session reads all of it or none."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text + "\n")
    new.replace(file)


def r_processes(proc: str) -> dict[int, str]:
    """R processes of this pod that run, each with its kind (``out_of_memory.KINDS``)."""
    found = {}
    for name in os.listdir(proc):
        if name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                # Its name first, by which most are no R: /proc/PID/stat takes the kernel more work.
                command = _read(f"{proc}/{name}/comm").rstrip()
                if command in _COMMANDS and (kind := _kind(f"{proc}/{name}", command)):
                    found[int(name)] = kind
    return found


def _kind(folder: str, command: bytes) -> str:
    """The kind of a process that runs R; empty for one that ends, or has ended and was not reaped yet."""
    fields = _read(f"{folder}/stat").rpartition(b")")[2].split()  # from the third one on: proc(5)
    if fields[0] in (b"Z", b"X") or int(fields[6]) & _EXITING:
        return ""
    if command == b"rsession":
        return "rstudio"
    with open(f"{folder}/cmdline", "rb") as file:
        return "notebook" if b"IRkernel::main()" in file.read() else "r"


def _read(path: str) -> bytes:
    """Content of a small file of /proc, without the five further system calls of Python's ``open``."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)
