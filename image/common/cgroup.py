"""Memory and CPU of this container, as its control group reports them (cgroup v2, else v1)."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ROOT = Path(os.environ.get("FUTURE_KUBERNETES_CGROUP", "/sys/fs/cgroup"))
"""Another folder for tests."""


def oom_kills() -> int:
    """Number of processes of this container that the kernel has killed because memory ran out."""
    for name in ("memory.events", "memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (_ROOT / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def memory_limit_mib() -> int | None:
    """The container's memory limit in MiB; None when there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int((_ROOT / name).read_text())
            return limit >> 20 if limit < 1 << 60 else None  # v1 states "none" by a number near 2**63
    return None


class Usage:
    """Memory of the container now, and its CPU since the call before."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None
        self.since_last()

    def since_last(self) -> tuple[int, float] | None:
        """Memory in MiB, and CPUs used on average since the last call; None where the control group has no figures."""
        memory, cpu = memory_mib(), _cpu_seconds()
        now = time.monotonic()
        before, self._before = self._before, (now, cpu) if cpu is not None else None
        if memory is None or cpu is None:
            return None
        return memory, (cpu - before[1]) / max(0.001, now - before[0]) if before else 0.0


def memory_mib() -> int | None:
    """Memory of the container that the kernel cannot take back, as `kubectl top` has it; None where it is not known.

    Files that were read count as used memory, too, until something else needs it. After a large file the whole would
    be near the limit, and mean nothing.
    """
    for usage, stat, name in (
        ("memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            used = int((_ROOT / usage).read_text())
            with contextlib.suppress(OSError, ValueError, IndexError):
                used -= int((_ROOT / stat).read_text().split(f"\n{name} ")[1].split()[0])
            return max(0, used) >> 20
    return None


def _cpu_seconds() -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_ROOT / "cpu.stat").read_text().split("usage_usec ")[1].split()[0]) / 1e6
    with contextlib.suppress(OSError, ValueError):
        return int((_ROOT / "cpuacct/cpuacct.usage").read_text()) / 1e9
    return None
