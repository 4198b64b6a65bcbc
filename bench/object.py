"""Measures how long one large object takes to many workers, beside the same bytes by TLS and nothing else.

    python bench/object.py [--workers 40] [--mb 100] [--rounds 3]

The broker is real, on loopback. The session and the workers are stand-ins, and the workers drop what they read, as the
clients of bench/tls.py do: what is compared is the broker. The two run in turns. CPU is that of the broker's process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import broker
from bench.tls import PROCESSES
from bench.tls import measure as by_tls
from image.common import protocol, tls, wire


def _line(sock: ssl.SSLSocket) -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        if not (one := sock.recv(1)):
            raise EOFError
        got += one
    return got


def _drop(sock: ssl.SSLSocket, left: int) -> None:
    view = memoryview(bytearray(256 * 1024))
    while left:
        if not (count := sock.recv_into(view[: min(left, len(view))])):
            raise EOFError
        left -= count


def worker(port: int, number: int, context: ssl.SSLContext) -> None:
    """Play one worker until the broker ends."""
    with (
        contextlib.suppress(EOFError, OSError),
        context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as sock,
    ):
        sock.sendall(wire.encode(op="worker", protocol=protocol.VERSION, pod=f"w{number}", node="here"))
        _line(sock)
        while True:
            message = wire.decode(_line(sock))
            _drop(sock, message.get("size", 0))
            if message["op"] == "task":
                sock.sendall(wire.encode(op="result", id=message["id"], status="done", size=4) + b"done")


def several(port: int, numbers: range, context: ssl.SSLContext) -> None:
    """Play several workers, each in a thread."""
    threads = [threading.Thread(target=worker, args=(port, number, context)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def by_broker(sessions: int, workers: int, data: bytes, name: str) -> float:
    """Return the seconds from the first byte of the object to the end of a task with it on each worker."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", sessions, limit=1 << 20)
    writer.write(f"protocol {protocol.VERSION}\nopen {name} {os.getpid()} {workers} {workers} 2\n".encode())
    await reader.readline()
    assert (await reader.readline()).startswith(b"opened ")
    writer.write(f"object {name} {len(data)}\n".encode() + data)
    for number in range(workers):
        writer.write(f"submit {number} 4 {name} \n".encode() + b"task")
    for _ in range(workers):
        words = (await reader.readline()).split()
        assert words[0] == b"done", words
        await reader.readexactly(int(words[2]))
    took = time.monotonic() - started
    writer.write(b"close\n")
    await reader.read()
    return took


async def measure(workers: int, megabytes: int, rounds: int, folder: Path) -> None:
    """Print a line for each round."""
    data = os.urandom(megabytes * 10**6)
    async with broker.started(folder, 0, broker.worker) as (pid, sessions):
        found = re.search(r"'workers': (\d+)", (folder / "log").read_text())
        assert found
        context = tls.context(broker.TOKEN.encode(), server=False)
        fork = multiprocessing.get_context("fork")
        each = [range(first, workers, PROCESSES) for first in range(PROCESSES)]
        peers = [fork.Process(target=several, args=(int(found[1]), some, context), daemon=True) for some in each]
        for peer in peers:
            peer.start()
        while (await broker.ask(sessions, "connected")).split()[1] != str(workers):
            await asyncio.sleep(0.1)
        for number in range(rounds):
            before = broker.cpu_seconds(pid)
            took = await by_broker(sessions, workers, data, f"bench{number}")
            cpu = broker.cpu_seconds(pid) - before
            alone = await by_tls(workers, megabytes)
            load = os.getloadavg()[0]
            print(f"broker {took:.2f} s ({cpu:.2f} s of CPU), TLS {alone:.2f} s, load {load:.1f}", flush=True)
        for peer in peers:
            peer.terminate()


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="future-kubernetes-bench-") as folder:
        asyncio.run(measure(arguments.workers, arguments.mb, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
