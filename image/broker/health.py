"""The broker's HTTP port: /readyz for the probes and /metrics for Prometheus; and the check for silent networks."""

from __future__ import annotations

import asyncio
import contextlib

from ..common import wire
from .dispatch import Dispatcher
from .leases import Leases
from .log import log
from .pool import Pool

_REQUEST_SECONDS = 5.0


class HttpPort:
    """Answers /readyz and /metrics."""

    def __init__(self, pool: Pool, leases: Leases, dispatcher: Dispatcher) -> None:
        self._pool = pool
        self._leases = leases
        self._dispatcher = dispatcher

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
        plans = self._dispatcher.plans.values()
        sessions = {worker.session_pid for worker in leased} | {plan.pid for plan in plans}
        memory = [f'{{pod="{w.pod}"}} {w.memory_mib << 20}' for w in self._pool.workers if w.memory_mib is not None]
        cpu = [f'{{pod="{w.pod}"}} {w.cpu:.3f}' for w in self._pool.workers if w.cpu is not None]
        metrics = (
            ("workers", "gauge", "Connected workers by state.",
             [f'{{state="{state}"}} {number}' for state, number in states.items()]),
            ("worker_memory_bytes", "gauge", "Memory of the containers of workers that run something.", memory),
            ("worker_cpus", "gauge", "CPUs that they use.", cpu),
            ("sessions", "gauge", "R sessions that have a plan or a worker.", [f" {len(sessions)}"]),
            ("waiting", "gauge", "Requests of attach mode that wait for a worker.", [f" {len(self._leases.queue)}"]),
            ("tasks_queued", "gauge", "Futures that wait for a worker.", [f" {sum(len(p.queue) for p in plans)}"]),
            ("tasks_running", "gauge", "Futures that run.", [f" {sum(p.running for p in plans)}"]),
            ("tasks_total", "counter", "Futures by what became of them.",
             [f'{{outcome="{name}"}} {number}' for name, number in self._dispatcher.reports.counters.items()]),
            ("attached_total", "counter", "Workers that were attached to a session.",
             [f" {self._leases.attached_total}"]),
            ("lost_total", "counter", "Workers that were lost while a session used them in attach mode.",
             [f" {self._leases.lost_total}"]),
        )  # fmt: skip
        lines = []
        for name, kind, words, values in metrics:
            lines.append(f"# HELP future_kubernetes_{name} {words}\n# TYPE future_kubernetes_{name} {kind}\n")
            lines += [f"future_kubernetes_{name}{value}\n" for value in values]
        return "".join(lines)


async def drop_silent_workers(pool: Pool) -> None:
    """Drop, again and again, the workers in use that no longer acknowledge what is sent to them."""
    while True:
        await asyncio.sleep(wire.CHECK_SECONDS)
        # The socket of one that was dropped is closed before its lease ends.
        for worker in [worker for worker in pool.leased.values() if worker.open]:
            worker.silent_checks = worker.silent_checks + 1 if wire.peer_is_silent(worker.socket) else 0
            if worker.silent_checks == 2:
                log(f"{worker.pod} has fallen silent")
                worker.was_silent = True
                worker.drop()
