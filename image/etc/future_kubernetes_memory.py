"""Extension of the Jupyter server: the pod's memory in JupyterLab's status bar, and the end of a kernel for lack of it.

JupyterLab says only that a kernel "appears to have died". So the cell that ran in it gets a line of output with the
reason and what helps; if none ran, the next cell that runs does. A restart of the whole pod is said likewise.
"""

import contextlib
import importlib.util
import json
import os
import signal
import time
from pathlib import Path

from future_kubernetes.common import cgroup, out_of_memory
from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_server.base.handlers import APIHandler
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.utils import url_path_join
from tornado import web

_RUN = Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
_NOTICE = "restart-notice.notebook"
"""Written by the broker (image/broker/restart_notice.py)."""
_WARN = 0.9
_MEBIBYTE = 1 << 20


class PodMemory(APIHandler):
    """Answers jupyter-resource-usage's status bar with the figures by which the kernel ends processes.

    The package adds up what the Jupyter server's own descendants use. The limit holds for the pod, whose broker is none
    of them, and memory that processes share would count more than once.
    """

    @web.authenticated
    def get(self):
        """Memory of the pod, and its limit."""
        used, limit = cgroup.memory_mib() or 0, cgroup.memory_limit_mib()
        memory = {"rss": limit * _MEBIBYTE, "warn": used > _WARN * limit} if limit else {}
        self.finish(json.dumps({"rss": used * _MEBIBYTE, "limits": {"memory": memory}}))


class MemoryRestarter(AsyncIOLoopKernelRestarter):
    """Notes on the kernel's manager that it ended for lack of memory, before anybody hears of the restart."""

    _kills = _latest = 0

    def start(self):
        """Begin to look every three seconds."""
        self._kills = self._latest = cgroup.oom_kills()
        super().start()

    async def poll(self):
        """Look at the kernel."""
        # A process is counted before it has ended, and one with gigabytes takes a while. So what counts is the number
        # of the look before, while the kernel was alive in both.
        kills = cgroup.oom_kills()
        if await self.kernel_manager.is_alive():
            self._kills, self._latest = self._latest, kills
        await super().poll()

    def _fire_callbacks(self, event):
        kills = cgroup.oom_kills()
        if kills > self._kills and _exit_status(self.kernel_manager) == -signal.SIGKILL:
            self._kills = self._latest = kills
            pid = self.kernel_manager.provisioner.pid
            limit = cgroup.memory_limit_mib()
            self.kernel_manager.memory_notice = out_of_memory.ended("notebook", pid, time.time(), limit)
        super()._fire_callbacks(event)


def _exit_status(manager):
    return getattr(getattr(manager.provisioner, "process", None), "returncode", None)


class TellingConnection(ZMQChannelsWebsocketConnection):
    """A browser's connection to a kernel, which also gets the notices."""

    _cell = None
    """Header of the request that the kernel ran last."""

    def handle_outgoing_message(self, stream, outgoing_msg):
        """Pass on a message of the kernel."""
        super().handle_outgoing_message(stream, outgoing_msg)
        # Parts after the signature: header, parent header, metadata, content. Only a cell's begin is looked into.
        parts = self.session.feed_identities(outgoing_msg)[1][1:]
        if b"execute_input" in parts[0] and json.loads(parts[0]).get("msg_type") == "execute_input":
            self._cell = json.loads(parts[1])
            self._tell()

    def on_kernel_restarted(self):
        """Report the reason first: after the word that it restarts, JupyterLab adds nothing to the cell."""
        if getattr(self.kernel_manager, "execution_state", "") == "busy":
            self._tell()
        super().on_kernel_restarted()

    def _tell(self):
        # Another tab on the same kernel hears of all cells; only the one that sent this one shows its output.
        if self._cell is None or self._cell.get("session") != self.session.session:
            return
        notices = [getattr(self.kernel_manager, "memory_notice", ""), take(_RUN / _NOTICE)]
        self.kernel_manager.memory_notice = ""
        for notice in filter(None, notices):
            self.write_stderr(notice, self._cell)


def take(file):
    """Text of a file that is removed, so that it is said once; empty if there is none."""
    with contextlib.suppress(OSError):
        mine = file.with_name(f"{file.name}.{os.getpid()}")
        file.rename(mine)
        text = mine.read_text().strip()
        mine.unlink()
        return text
    return ""


def _jupyter_server_extension_points():
    return [{"module": "future_kubernetes_memory"}]


def _load_jupyter_server_extension(server):
    # Loaded before jupyter_resource_usage, by the alphabet: the first handler that matches takes a request.
    if importlib.util.find_spec("jupyter_resource_usage") is not None and cgroup.memory_mib() is not None:
        path = url_path_join(server.web_app.settings["base_url"], "api/metrics/v1")
        server.web_app.add_handlers(".*$", [(path, PodMemory)])
