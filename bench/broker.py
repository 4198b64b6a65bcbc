"""Measures memory and CPU of the broker with many workers, while one plan submits tasks to each of them.

    python bench/broker.py [--workers 1000 2500 5000] [--tasks 10]

The broker is real, with TLS, on loopback. Workers are stand-ins in one process that answer each task at once with a
kilobyte; the session is a stand-in that submits and collects as R does. CPU is that of the broker's process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.paths import REPO
from image.common import protocol, tls, wire

TOKEN = "token-of-a-benchmark-that-protects-nothing"  # noqa: S105
RESULT = b"x" * 1024
PAYLOAD = b"x" * 1024
IDLE_SECONDS = 10.0
_HANDSHAKES = 50


StandIn = Callable[[int, ssl.SSLContext, int, asyncio.Semaphore], Coroutine[Any, Any, None]]
"""Plays a worker: broker's port, TLS, number of the worker, limit of handshakes at once."""


async def worker(port: int, context: ssl.SSLContext, number: int, few: asyncio.Semaphore) -> None:
    """Play one worker until the broker ends."""
    async with few:  # thousands of handshakes at once would time out
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(wire.encode(op="worker", protocol=protocol.VERSION, pod=f"w{number}", node="here"))
        await reader.readline()
    while line := await reader.readline():
        message = wire.decode(line)
        if message["op"] == "task":
            await reader.readexactly(message["size"])
            writer.write(wire.encode(op="result", id=message["id"], status="done", size=len(RESULT)) + RESULT)


async def ask(port: int, line: str) -> str:
    """Return the reply to one request of a session."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"protocol {protocol.VERSION}\n{line}\n".encode())
    await reader.readline()
    answer = (await reader.readline()).decode().strip()
    writer.close()
    return answer


async def plan(port: int, workers: int, tasks: int) -> tuple[float, float]:
    """Return the seconds until a plan is open, and until each worker has answered ``tasks`` tasks."""
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"protocol {protocol.VERSION}\nopen bench{workers} {os.getpid()} {workers} {workers} 2\n".encode())
    await reader.readline()
    assert (await reader.readline()).startswith(b"opened ")
    opened = time.monotonic() - start
    start = time.monotonic()
    for number in range(workers * tasks):
        writer.write(f"submit {number} {len(PAYLOAD)} - \n".encode() + PAYLOAD)
        if number % 100 == 0:
            await writer.drain()
    left = workers * tasks
    while left:
        words = (await reader.readline()).split()
        assert words[0] == b"done", words
        await reader.readexactly(int(words[2]))
        writer.write(b"got %s\n" % words[1])
        left -= 1
    took = time.monotonic() - start
    writer.write(b"close\n")
    await reader.read()
    return opened, took


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10  # type: ignore[index]


@contextlib.asynccontextmanager
async def started(folder: Path, workers: int, stand_in: StandIn) -> AsyncIterator[tuple[int, int]]:
    """Start a broker with that number of stand-ins, until the block ends; yield its process and port for sessions."""
    (folder / "token").write_text(TOKEN)
    environ = {
        "PATH": os.environ["PATH"], "FUTURE_KUBERNETES_TOKEN_FILE": str(folder / "token"),
        "FUTURE_KUBERNETES_RUN": str(folder), "FUTURE_KUBERNETES_PORT": "0", "FUTURE_KUBERNETES_SESSION_PORT": "0",
        "FUTURE_KUBERNETES_HTTP_PORT": "0",
    }  # fmt: skip
    log = folder / "log"
    with log.open("wb") as output:
        broker = subprocess.Popen([sys.executable, "-m", "image.broker.main"], cwd=REPO, env=environ, stderr=output)
    try:
        while not (found := re.search(r"'workers': (\d+), 'sessions': (\d+)", log.read_text())):
            await asyncio.sleep(0.05)
        port, sessions = int(found[1]), int(found[2])
        context = tls.context(TOKEN.encode(), server=False)
        few = asyncio.Semaphore(_HANDSHAKES)
        peers = [asyncio.create_task(stand_in(port, context, number, few)) for number in range(workers)]
        while (await ask(sessions, "connected")).split()[1] != str(workers):
            await asyncio.sleep(0.2)
        yield broker.pid, sessions
        for peer in peers:
            peer.cancel()
    finally:
        broker.terminate()
        broker.wait()


async def measure(workers: int, tasks: int, folder: Path) -> list[str]:
    """Return one row of the table, from a broker of its own with that number of workers."""
    async with started(folder, workers, worker) as (broker, sessions):
        before = cpu_seconds(broker)
        await asyncio.sleep(IDLE_SECONDS)
        idle, memory = 100 * (cpu_seconds(broker) - before) / IDLE_SECONDS, memory_mib(broker)
        before = cpu_seconds(broker)
        opened, took = await plan(sessions, workers, tasks)
        busy = cpu_seconds(broker) - before
        return [
            str(workers), f"{memory} MiB", f"{memory_mib(broker)} MiB", f"{idle:.1f} %", f"{1000 * opened:.0f} ms",
            f"{workers * tasks / took:.0f} a second", f"{1000 * busy / workers / tasks:.2f} ms",
        ]  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Measure each number of workers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1000, 2500, 5000])
    parser.add_argument("--tasks", type=int, default=10, help="tasks for each worker")
    arguments = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start\n")
    heads = ["workers", "memory, idle", "after the tasks", "CPU, idle", "plan", "tasks", "CPU a task"]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), flush=True)
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory(prefix="future-kubernetes-bench-") as name:
            row = asyncio.run(measure(workers, arguments.tasks, Path(name)))
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
