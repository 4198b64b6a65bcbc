"""Kernel manager of the Jupyter server: shuts down idle kernels where the stack's `cullIdleKernels` asks for it.

Jupyter itself finds the idle ones. A kernel at its prompt whose futures still wait or run is not idle: the broker knows
that. Both settings are read each time, so that a change restarts nothing.
"""

import asyncio
import contextlib
import os
from pathlib import Path

from future_kubernetes.common import protocol
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from traitlets import Integer

_RUN = Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
_CONFIG = Path(os.environ.get("FUTURE_KUBERNETES_CONFIG", "/etc/future-kubernetes/config"))
_ANSWER_SECONDS = 10


class CullingKernelManager(AsyncMappingKernelManager):
    """Shuts down kernels that have been idle for `idleMinutes` and have no future that waits or runs."""

    cull_interval = Integer(60, config=True, help="Seconds between two looks.")
    cull_idle_timeout = Integer(1, help="Above 0, so that Jupyter looks at all; set before each look.")
    cull_connected = True
    """A browser's tab stays open for days."""

    async def cull_kernel_if_idle(self, kernel_id):
        """Shut one kernel down if it is idle."""
        seconds = idle_seconds()
        if not seconds:
            return
        kernel = self._kernels[kernel_id]
        if await futures_of(kernel.provisioner.pid) != 0:
            # From the end of the last future on the person has the whole time to collect its value.
            kernel.last_activity = utcnow()
            return
        self.cull_idle_timeout = seconds
        await super().cull_kernel_if_idle(kernel_id)


def idle_seconds():
    """Return after how many seconds kernels are to be shut down; 0 for never."""
    with contextlib.suppress(OSError, ValueError):
        if (_CONFIG / "cullIdleKernels").read_text().strip() == "true":
            return round(60 * float((_CONFIG / "idleMinutes").read_text()))
    return 0


async def futures_of(pid):
    """Return how many futures of a process and its children wait or run; None if the broker does not answer."""
    with contextlib.suppress(OSError, ValueError, IndexError, asyncio.TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", int((_RUN / "broker.port").read_text()))
            try:
                writer.write(f"protocol {protocol.VERSION}\nfutures {pid}\n".encode())
                await reader.readline()
                word, number = (await reader.readline()).split()
                return int(number) if word == b"ok" else None
            finally:
                writer.close()
    return None
