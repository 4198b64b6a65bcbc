"""Says why the scheduler's container was started again, where memory was the cause.

On cgroup v2 the kernel ends the whole container at its memory limit: IDE, sessions and broker. Nothing that ran in it
can say so; the pod's status does. R prints the notice at the start of the next interactive session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from . import diagnosis
from .kubernetes import KubeError, KubernetesApi
from .log import log

FILE = "restart-notice"


async def write_notice(environ: Mapping[str, str], folder: Path) -> None:
    """Write the notice into ``folder``, or remove an earlier one where memory was not the cause."""
    notice = ""
    try:
        pod = await asyncio.to_thread(KubernetesApi(environ).pod, environ.get("HOSTNAME", ""))
        notice = diagnosis.out_of_memory(pod)
    except KubeError as error:
        log(f"why this container was started is not known: {error}")
    if notice:
        log(notice)
        (folder / FILE).write_text(notice + "\n")
    else:
        (folder / FILE).unlink(missing_ok=True)
