"""The broker's HTTP port: /readyz for the probes and /metrics for Prometheus; and the check for silent networks."""

from __future__ import annotations

import asyncio
import contextlib

from ..common import wire
from .leases import Leases
from .log import log
from .pool import Pool

_REQUEST_SECONDS = 5.0


class HttpPort:
    """Answers /readyz and /metrics."""

    def __init__(self, pool: Pool, leases: Leases) -> None:
        self._pool = pool
        self._leases = leases

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            request = await asyncio.wait_for(reader.readline(), _REQUEST_SECONDS)
            path = request.split(b" ")[1]
            known = {b"/readyz": "ok\n", b"/metrics": self._metrics()}
            body = known.get(path, "not found\n").encode()
            status = "200 OK" if path in known else "404 Not Found"
            head = (
                f"HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    def _metrics(self) -> str:
        """State in the Prometheus text format."""
        leased = self._pool.leased.values()
        draining = sum(1 for worker in leased if self._pool.draining(worker))
        states = {"idle": len(self._pool.idle), "busy": len(leased) - draining, "draining": draining}
        metrics = (
            ("workers", "gauge", [f'{{state="{state}"}} {number}' for state, number in states.items()]),
            ("sessions", "gauge", [f" {len({worker.session_pid for worker in leased})}"]),
            ("waiting", "gauge", [f" {len(self._leases.queue)}"]),
            ("attached_total", "counter", [f" {self._leases.attached_total}"]),
            ("lost_total", "counter", [f" {self._leases.lost_total}"]),
        )
        lines = []
        for name, kind, values in metrics:
            lines.append(f"# TYPE future_kubernetes_{name} {kind}\n")
            lines += [f"future_kubernetes_{name}{value}\n" for value in values]
        return "".join(lines)


async def drop_silent_workers(pool: Pool, leases: Leases) -> None:
    """Drop, again and again, the workers in use that no longer acknowledge what is sent to them."""
    while True:
        await asyncio.sleep(wire.CHECK_SECONDS)
        for worker in list(pool.leased.values()):
            worker.silent_checks = worker.silent_checks + 1 if wire.peer_is_silent(worker.socket) else 0
            if worker.silent_checks == 2:
                log(f"{worker.pod} has fallen silent")
                leases.silent(worker)
                worker.drop()
