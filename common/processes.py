"""Processes of this machine as Linux reports them in /proc (proc(5)), and how to wait for one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process. `start_time` distinguishes it from a later process with the same PID; `name` is cut to 15 bytes."""

    pid: int
    name: str
    parent: int
    start_time: str


def find(pid: int) -> Process | None:
    """The process with this PID; None where there is none, or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in parentheses and may itself contain spaces and parentheses.
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, head.partition("(")[2], int(fields[1]), fields[19])


def running() -> Iterator[Process]:
    """Every process of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        process = find(int(folder.name))
        if process:
            yield process


def has_environment(pid: int, variable: str) -> bool:
    """True where the process started with `variable` ("NAME=value") in its environment."""
    with contextlib.suppress(OSError):  # the process has just ended
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Exit status of the process. Raises KeyboardInterrupt, but only once the process has ended.

    Ctrl-C reaches the process too. Killed before its own clean-up, Pulumi would leave a locked stack.
    """
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode


def end(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Ends a process by Ctrl-C's signal, which lets it clean up; then by SIGTERM; then by SIGKILL."""
    for demand in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(demand)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
