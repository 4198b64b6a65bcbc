"""The IDE's address, as a person reaches it."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.paths import REPO
from common.patience import patience
from tests.broker.conftest import free_port
from tests.broker.door import Door
from tests.e2e.conftest import Stack


@contextmanager
def forwarded(stack: Stack) -> Iterator[str]:
    """The IDE's address behind the stack's own port-forward command, on a port that is free here."""
    port = free_port()
    command = stack.outputs()["portForward"].replace("8787:8787", f"{port}:8787")
    forward = subprocess.Popen(shlex.split(command), env=stack.environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience(20)
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, command
            assert forward.poll() is None, command
            time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        forward.terminate()
        forward.wait(patience(10))


class Visitor(Door):
    """Cookies of one browser at the stack's front door."""

    def __init__(self, address: str) -> None:
        self.base, self.port = "/", urllib.parse.urlsplit(address).port or 0
        self.cookies, self.headers = {}, {}


@dataclass(frozen=True)
class Connecting:
    """A running `future-kubernetes connect`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def said(self) -> str:
        """Return what the command has printed so far."""
        return self.log.read_text()

    def end(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(patience(20)) == 130, self.said()


@contextmanager
def connecting(
    stack: Stack, folder: Path, *options: str, port: int | None = None, **environment: str
) -> Iterator[Connecting]:
    """`future-kubernetes connect` with these options, until the block ends.

    port: asked for instead of one that is free. folder: for what the command prints.
    """
    port = port or free_port()
    log = folder / "connect.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "connect", *options, "--port", str(port)],
            cwd=REPO, env={**stack.environment(), **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Connecting(process, port, log)
    finally:
        process.kill()
        process.wait()
