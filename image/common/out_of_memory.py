"""Texts for people whose R session ended because the scheduler's pod ran out of memory. Pure: no I/O."""

from __future__ import annotations

import time

KINDS = {"rstudio": "R session of RStudio", "notebook": "R kernel of a notebook", "r": "R process"}
"""Kinds of R processes in the scheduler's pod, in words."""


def advice(limit_mib: float | None) -> str:
    """Ways to more memory, with the command for twice as much as there is."""
    more = f"{2 * limit_mib / 1024:g}" if limit_mib else "with a larger number"
    return (
        f"For more memory: 'pulumi config set schedulerMemoryGiB {more}' and 'pulumi up', which starts the pod anew. "
        "Or release what is not needed, by rm() and gc(), and let the workers read large data"
    )


def limit(limit_mib: float | None) -> str:
    """The pod's limit."""
    return f"pod limit {limit_mib / 1024:.3g} GiB" if limit_mib else "pod limit unknown"


def ended(kind: str, pid: int, at: float, limit_mib: float | None) -> str:
    """One R session's end, for the next one and for the log.

    Args:
        kind: a name of KINDS; any other for a process that is no R.
        pid: its process; 0 if it is not known.
        at: seconds of the epoch.
        limit_mib: the pod's memory limit.
    """
    what = KINDS.get(kind, "process of this pod")
    which = f" (process {pid})" if pid else ""
    article = "The" if kind in KINDS else "A"
    before = " before this one" if kind in ("rstudio", "notebook") else ""
    clock = time.strftime("%H:%M:%S UTC", time.gmtime(at))
    return (
        f"{article} {what}{before}{which} ended at {clock} for lack of memory: {limit(limit_mib)}. {advice(limit_mib)}."
    )
