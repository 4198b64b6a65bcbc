"""Notice for the next R session when the scheduler's container was restarted because it ran out of memory.

With cgroup v2 the kernel ends the whole container at its memory limit: IDE, sessions and broker. No process of it can
report that, but the pod's status does. R prints the notice at the start of the next interactive session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import diagnosis
from .kubernetes import KubeError, KubernetesApi
from .log import log

FILE = "restart-notice"
_WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between the tries while the Kubernetes API cannot be reached."""


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
    """Return the pod of this broker. What exhausts a pod's memory can keep the whole node busy for a while."""
    for wait in _WAITS:
        try:
            return await asyncio.to_thread(KubernetesApi(environ).pod, environ.get("HOSTNAME", ""))
        except KubeError as error:
            if error.kind != "unreachable":
                raise
        await asyncio.sleep(wait)
    return await asyncio.to_thread(KubernetesApi(environ).pod, environ.get("HOSTNAME", ""))
