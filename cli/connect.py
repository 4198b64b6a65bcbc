"""Forwards the IDE's port to this machine, and restarts the forward whenever it drops: `future-kubernetes connect`."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from cli.stack import Stack
from common.errors import UserError
from common.patience import patience

PORT = 8787
FIRST_SECONDS = 60.0
"""For the first connection; a command that cannot connect at all must not try for ever."""
CHECK_SECONDS = 5.0
"""Between two looks whether the forward leads to the IDE: after a sleep of the machine kubectl does not notice."""
LOOK_SECONDS = 10.0
MAX_DELAY_SECONDS = 10.0


def connect(stack: Stack, port: int = PORT, *, browser: bool = True, show_password: bool = False) -> None:
    """Forward until Ctrl-C. Raises UserError where the first connection fails.

    port: on this machine; the next free one where it is taken. browser: open the page once the IDE answers.
    """
    local = free_port(port)
    if local != port:
        say(f"Port {port} of this machine is taken: using {local}.")
    # The output `url` is the address that all use; a stack may put the IDE below a path of it.
    url = f"http://localhost:{local}{urllib.parse.urlsplit(stack.outputs.get('url', '')).path.rstrip('/')}/"
    begun, shown, lost, delay = time.monotonic(), False, False, 0.5
    while True:
        with forward(stack, local) as (process, messages):
            while answers(process, local):
                if not shown:
                    shown = True
                    introduce(stack, url, show_password=show_password)
                    if browser:
                        webbrowser.open(url)
                elif lost:
                    say("Connected again.")
                lost, delay = False, 0.5
                wait(process, CHECK_SECONDS)
            reason = last_of(messages)
        if not shown and re.search(r"\(Forbidden\)|is forbidden: User", reason):
            raise UserError(
                f"this login to Kubernetes may not forward a port of {stack.title}: {reason}\n"
                f"Fix: ask for a role that may create pods/portforward and read services and pods in its namespace; "
                f"to look: kubectl auth can-i create pods/portforward"
            )
        if not shown and time.monotonic() - begun > patience(FIRST_SECONDS):
            raise UserError(
                f"the IDE of {stack.title} was not reached within {patience(FIRST_SECONDS):.0f} s: {reason}\n"
                f"Fix: {stack.status_command}"
            )
        if not lost:
            say(f"{'The connection was lost' if shown else 'Not connected yet'}: {reason}. Trying again; Ctrl-C ends.")
            lost = True
        time.sleep(delay)
        delay = min(2 * delay, MAX_DELAY_SECONDS)


def say(text: str) -> None:
    """Print for the person, who may have sent standard output elsewhere."""
    print(text, file=sys.stderr, flush=True)


def introduce(stack: Stack, url: str, *, show_password: bool) -> None:
    """Say where the IDE is and how to log in; the password only if it was asked for."""
    print(url, flush=True)
    if show_password:
        print(f"password {stack.outputs['password']}", flush=True)
    else:
        say(f"The password: {stack.password_command}")
    say("Ctrl-C ends the connection; sessions and futures go on.")


def free_port(port: int) -> int:
    """The port if it is free on this machine, else the next one. Raises UserError where none of 100 is."""
    for candidate in range(port, min(port + 100, 65536)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    raise UserError(f"no port from {port} on is free on this machine.\nFix: future-kubernetes connect --port NUMBER")


@contextmanager
def forward(stack: Stack, port: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A `kubectl port-forward` that ends with the block, and the file with its messages."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            stack.kubectl.command(
                "port-forward", f"--pod-running-timeout={patience(20):.0f}s",
                f"service/{stack.release}-scheduler", f"{port}:{PORT}",
            ),
            stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
            start_new_session=True,  # Ctrl-C reaches only this program
        )  # fmt: skip
        try:
            yield process, messages
        finally:
            process.kill()
            process.wait()


def answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """True if the IDE answers through the forward. Waits for a forward that has just been started."""
    deadline = time.monotonic() + patience(LOOK_SECONDS)
    while process.poll() is None and time.monotonic() < deadline:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=patience(LOOK_SECONDS))
        try:
            link.request("GET", "/")
            link.getresponse()
            return True
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        finally:
            link.close()
    return False


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait so long, or until kubectl has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def last_of(messages: IO[bytes]) -> str:
    """Return the last message of kubectl."""
    messages.seek(0)
    lines = [
        line for line in messages.read().decode(errors="replace").splitlines()
        if line and not line.startswith(("Forwarding from", "Handling connection"))
    ]  # fmt: skip
    return lines[-1][-300:] if lines else "the IDE does not answer"
