"""Memory of the worker's container, as its control group reports it (cgroup v2, else v1)."""

from __future__ import annotations

import contextlib
from pathlib import Path


def oom_kills() -> int:
    """Number of processes of this container that the kernel has killed because memory ran out."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def memory_limit_mib() -> int | None:
    """The container's memory limit in MiB; None when there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(path).read_text())
            return limit >> 20 if limit < 1 << 60 else None  # v1 states "none" by a number near 2**63
    return None
