"""Measures what the broker's TLS allows: the same bytes to many plain clients, on loopback.

    python bench/tls.py [--clients 40] [--mb 100]

The server is one process with the broker's TLS and event loop, that writes pieces as the broker does. The clients are
four processes that read and drop. bench/workers.py runs this file in the scheduler's pod too, beside R's figures.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import multiprocessing
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

IN_POD = Path("/usr/local/lib/future-kubernetes")
PIECE = bytes(256 * 1024)
TOKEN = b"token-of-a-benchmark-that-protects-nothing"
PROCESSES = 4


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS of the broker and that of a worker."""
    sys.path.insert(0, str(IN_POD if IN_POD.exists() else Path(__file__).resolve().parent.parent))
    tls: Any = importlib.import_module(f"{'future_kubernetes' if IN_POD.exists() else 'image'}.common.tls")
    return tls.context(TOKEN, server=True), tls.context(TOKEN, server=False)


class Sender(asyncio.Protocol):
    """Writes as many pieces as are asked for, as fast as the reader takes them."""

    def __init__(self, pieces: int) -> None:
        self._left = pieces
        self._paused = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the start."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1024 * 1024)

    def start(self) -> None:
        """Begin to write."""
        self.resume_writing()

    def pause_writing(self) -> None:
        """Stop until the buffer is empty."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        while self._left and not self._paused:
            self._left -= 1
            self._transport.write(PIECE)


def read(port: int, clients: int, size: int, context: ssl.SSLContext) -> None:
    """Read `size` bytes by each of some connections at once."""

    def one() -> None:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as sock:
            left, buffer = size, bytearray(256 * 1024)
            while left:
                count = sock.recv_into(buffer)
                assert count, "the server ended"
                left -= count

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def measure(clients: int, megabytes: int) -> float:
    """Return the seconds until all clients have the bytes."""
    ours, theirs = contexts()
    pieces = megabytes * 10**6 // len(PIECE) + 1
    senders: list[Sender] = []

    def accept() -> Sender:
        senders.append(Sender(pieces))
        return senders[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=ours)
    port = server.sockets[0].getsockname()[1]
    fork = multiprocessing.get_context("fork")
    each = [clients // PROCESSES + (i < clients % PROCESSES) for i in range(PROCESSES)]
    readers = [
        fork.Process(target=read, args=(port, count, pieces * len(PIECE), theirs), daemon=True) for count in each
    ]
    for reader in readers:
        reader.start()
    while len(senders) < clients or not all(hasattr(sender, "_transport") for sender in senders):
        await asyncio.sleep(0.05)
    started = time.monotonic()
    for sender in senders:
        sender.start()
    for reader in readers:
        await loop.run_in_executor(None, reader.join)
    assert all(reader.exitcode == 0 for reader in readers)
    return time.monotonic() - started


def main() -> None:
    """Measure once, and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--mb", type=int, default=100)
    arguments = parser.parse_args()
    print(f"{asyncio.run(measure(arguments.clients, arguments.mb)):.2f}")


if __name__ == "__main__":
    main()
