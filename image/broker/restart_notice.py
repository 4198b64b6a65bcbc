"""Notice for R sessions when the scheduler's container was restarted because it ran out of memory.

On a cluster with cgroup v2 and without the kubelet's singleProcessOOMKill, the kernel ends the whole container at its
memory limit: IDE, sessions and broker. No process of it can report that, but the pod's status does. The next
interactive R session prints the notice, and so does the next cell that a notebook runs. Each removes its file, so that
every end is said once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import cgroup, out_of_memory
from . import diagnosis
from .kubernetes import KubeError, KubernetesApi
from .log import log
from .memory import Memory, write_whole

FILE = "restart-notice"
NOTEBOOK_FILE = "restart-notice.notebook"
_TOLD = "restart-notice.told"
"""The text that was last written: a restart of the broker only must not say it again."""
_WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between the tries."""
_CONTAINER = "scheduler"
_TOLERANCE_SECONDS = 10.0
"""Kubernetes states whole seconds, and the time at which the container was made for its first process."""


async def write_notice(environ: Mapping[str, str], folder: Path, memory: Memory) -> None:
    """Write the notice into ``folder``, or remove an earlier one if memory was not the cause."""
    notice, limit = "", cgroup.memory_limit_mib()
    try:
        end = diagnosis.out_of_memory(await _own_pod(environ))
        notice = f"{end}. {out_of_memory.advice(limit)}." if end else ""
    except KubeError as error:
        log(f"cannot look up why this container was started: {error}")
    told = folder / _TOLD
    if not notice:
        for name in (FILE, NOTEBOOK_FILE):
            (folder / name).unlink(missing_ok=True)
    elif not told.exists() or told.read_text().strip() != notice:
        log(notice)
        memory.note(f"the whole pod, with all R sessions: {out_of_memory.limit(limit)}", limit)
        for name in (FILE, NOTEBOOK_FILE, _TOLD):
            write_whole(folder / name, notice)


async def _own_pod(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the pod of this broker, once its status is about the container that runs now.

    What exhausts a pod's memory can keep the whole node busy: the API answers late, and kubelet reports late.
    """
    started = _container_started()
    for wait in _WAITS:
        try:
            pod = await asyncio.to_thread(KubernetesApi(environ).pod, environ.get("HOSTNAME", ""))
            if diagnosis.runs_since(pod, _CONTAINER, started - _TOLERANCE_SECONDS):
                return pod
        except KubeError as error:
            if error.kind != "unreachable":
                raise
        await asyncio.sleep(wait)
    return await asyncio.to_thread(KubernetesApi(environ).pod, environ.get("HOSTNAME", ""))


def _container_started() -> float:
    """Start of the container's first process, in seconds of the epoch (proc(5), /proc/PID/stat)."""
    ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age
