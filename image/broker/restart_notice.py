"""Notice for the next R session when the scheduler's container was restarted because it ran out of memory.

With cgroup v2 the kernel ends the whole container at its memory limit: IDE, sessions and broker. No process of it can
report that, but the pod's status does. R prints the notice at the start of the next interactive session.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import diagnosis
from .kubernetes import KubeError, KubernetesApi
from .log import log

FILE = "restart-notice"
_WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between the tries."""
_CONTAINER = "scheduler"
_TOLERANCE_SECONDS = 10.0
"""Kubernetes states whole seconds, and the time at which the container was made for its first process."""


async def write_notice(environ: Mapping[str, str], folder: Path) -> None:
    """Write the notice into ``folder``, or remove an earlier one if memory was not the cause."""
    notice = ""
    try:
        notice = diagnosis.out_of_memory(await _own_pod(environ))
    except KubeError as error:
        log(f"cannot look up why this container was started: {error}")
    if notice:
        log(notice)
        (folder / FILE).write_text(notice + "\n")
    else:
        (folder / FILE).unlink(missing_ok=True)


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
