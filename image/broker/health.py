"""The broker's HTTP port: /readyz for the probes and /metrics for Prometheus; and the check for silent networks."""

from __future__ import annotations

import asyncio
import contextlib

from ..common import wire
from .log import log
from .metrics import Metrics
from .pool import Pool

_REQUEST_SECONDS = 5.0


class HttpPort:
    """Answers /readyz and /metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            request = await asyncio.wait_for(reader.readline(), _REQUEST_SECONDS)
            path = request.split(b" ")[1]
            status, text = "200 OK", "ok\n"
            if path == b"/metrics":
                text = await self._metrics.text()
            elif path != b"/readyz":
                status, text = "404 Not Found", "not found\n"
            body = text.encode()
            head = (
                f"HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


async def drop_silent_workers(pool: Pool) -> None:
    """Drop, again and again, the workers in use that no longer acknowledge what is sent to them."""
    while True:
        if not pool.leased:
            pool.lent.clear()
            await pool.lent.wait()
        await asyncio.sleep(wire.CHECK_SECONDS)
        # The socket of one that was dropped is closed before its lease ends.
        for worker in [worker for worker in pool.leased.values() if worker.open]:
            worker.silent_checks = worker.silent_checks + 1 if wire.peer_is_silent(worker.socket) else 0
            if worker.silent_checks == 2:
                log(f"{worker.pod} has fallen silent")
                worker.was_silent = True
                worker.drop()
