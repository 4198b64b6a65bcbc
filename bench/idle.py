"""CPU and memory of idle workers: `python bench/idle.py SECONDS PID...`, the pids of the workers' first processes.

Reads the scheduler's own run time in nanoseconds (/proc/PID/task/TID/schedstat): a clock tick of 10 ms would hide it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and all that it started."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += tree(int(child))
    return found


def run_nanoseconds(pids: list[int]) -> int:
    """Time on a processor of all threads of these processes."""
    return sum(int(s.read_text().split()[0]) for pid in pids for s in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def proportional_kib(pid: int) -> int:
    """Memory of a process, what it shares divided among those that share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    """Print one line of figures."""
    seconds, roots = float(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]
    pids = [pid for root in roots for pid in tree(root)]
    before, start = run_nanoseconds(pids), time.monotonic()
    time.sleep(seconds)
    share = (run_nanoseconds(pids) - before) / (time.monotonic() - start) / 1e7
    memory = sum(map(proportional_kib, pids)) / 1024 / len(roots)
    print(f"{len(roots)} workers: {share:.4f} % of one core together, {memory:.1f} MiB each")


if __name__ == "__main__":
    main()
