"""The IDE's address, as a person reaches it."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.patience import patience
from tests.e2e.conftest import Stack


@contextmanager
def forwarded(stack: Stack) -> Iterator[str]:
    """The IDE's address behind the stack's own port-forward command, on a port that is free here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        forward.wait(10)
