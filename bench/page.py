"""The live page's cost: CPU of the broker with 1,000 workers and 100,000 tasks an hour, with no page open and with ten.

    python bench/page.py [--workers 1000] [--tasks-an-hour 100000] [--pages 0 1 10]
    python bench/page.py --serve FOLDER [--workers 1000]     keeps that running, with its socket in FOLDER

The broker is real, with TLS, on loopback. Workers are stand-ins in one process whose tasks take as long as they say;
pages are readers of the stream of events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.broker import cpu_seconds, memory_mib, started
from image.common import protocol, wire

MEASURE_SECONDS = 30.0
_LABELS = ("bootstrap", "fit-model", "cross-validate", "simulate")


async def worker(port: int, context: ssl.SSLContext, number: int, few: asyncio.Semaphore) -> None:
    """One stand-in: a task's bytes say how long it takes, and how it ends."""
    pod = f"bench-worker-{number:04d}"
    async with few:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(wire.encode(op="worker", protocol=protocol.VERSION, pod=pod, node=f"node-{number % 63}"))
        await reader.readline()
    while line := await reader.readline():
        message = wire.decode(line)
        if message["op"] != "task":
            continue
        seconds, _, status = (await reader.readexactly(message["size"])).decode().partition(" ")
        memory = 300 + (37 * number) % 1700
        writer.write(wire.encode(op="usage", memory=memory, limit=2048, cpu=0.9))
        await asyncio.sleep(float(seconds))
        if status == "dies":
            writer.write(wire.encode(op="ended", id=message["id"], status=-9, oom=True, limit=2048, tail=""))
        else:
            writer.write(wire.encode(op="result", id=message["id"], status=status, size=2) + b"ok")


async def session(port: int, workers: int, tasks_an_hour: float) -> None:
    """Submit tasks at a steady rate, which keep most workers busy, and take what becomes of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"protocol {protocol.VERSION}\nopen page{workers} {os.getpid()} {workers} {workers} 2\n".encode())

    async def collect() -> None:
        while words := (await reader.readline()).split():
            if words[0] in (b"done", b"unread", b"lost"):
                await reader.readexactly(int(words[2]))
                writer.write(b"got %s\n" % words[1])

    collecting = asyncio.create_task(collect())
    chance = random.Random(1)  # noqa: S311 - not for secrets
    pause, number = 3600 / tasks_an_hour, 0
    busy = 0.8 * workers * pause
    due = time.monotonic()
    while not collecting.done():
        number += 1
        label = f"{_LABELS[number // 400 % len(_LABELS)]}-{number}"
        fate = chance.random()
        status = "dies" if fate < 0.002 else "unread" if fate < 0.01 else "done"
        body = f"{busy * chance.uniform(0.3, 1.7):.2f} {status}".encode()
        writer.write(f"submit {number} {len(body)} - {label}\n".encode() + body)
        due += pause
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def page(folder: Path, read: list[int]) -> None:
    """One open page: counts the bytes that it gets."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "page.sock"))
    writer.write(b"GET /events HTTP/1.0\r\n\r\n")
    try:
        while piece := await reader.read(1 << 16):
            read[0] += len(piece)
    finally:
        writer.close()


async def measure(broker: int, folder: Path, pages: int) -> str:
    """One row: CPU of the broker while so many pages are open."""
    read = [0]
    readers = [asyncio.create_task(page(folder, read)) for _ in range(pages)]
    await asyncio.sleep(3)
    first, read[0] = read[0], 0
    before = cpu_seconds(broker)
    await asyncio.sleep(MEASURE_SECONDS)
    cpu = 100 * (cpu_seconds(broker) - before) / MEASURE_SECONDS
    for reader in readers:
        reader.cancel()
    each = f"{read[0] / pages / MEASURE_SECONDS / 1024:.1f} KiB a second" if pages else ""
    start = f"{first / pages / 1024:.0f} KiB" if pages else ""
    return f"| {pages} | {cpu:.1f} % | {memory_mib(broker)} MiB | {start} | {each} |"


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start broker, stand-ins and load; measure, or keep them running."""
    async with started(folder, arguments.workers, worker) as (broker, sessions):
        load = asyncio.create_task(session(sessions, arguments.workers, arguments.tasks_an_hour))
        if arguments.serve:
            print(f"broker {broker}, {folder}/page.sock", flush=True)
            await asyncio.Event().wait()
        await asyncio.sleep(min(60.0, 2000 * 3600 / arguments.tasks_an_hour))
        print("| open pages | CPU of the broker | memory | a page's first message | then |\n|" + " --- |" * 5)
        for pages in arguments.pages:
            print(await measure(broker, folder, pages), flush=True)
        load.cancel()


def main(argv: Sequence[str]) -> int:
    """Measure each number of pages, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tasks-an-hour", type=float, default=100_000.0)
    parser.add_argument("--pages", type=int, nargs="+", default=[0, 1, 10, 0])
    parser.add_argument("--serve", type=Path)
    arguments = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start\n")
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        folder = arguments.serve or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fk-page-")))
        asyncio.run(run(arguments, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
