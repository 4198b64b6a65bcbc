"""Client of the agent in the scheduler pod: sends each request by a `kubectl exec`, and reconnects when it is cut off.

Agent, request and files go through standard input: `ps` shows arguments to everybody.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cli.errors import ConnectionLostError
from cli.pod_agent import NoSuchRunError
from cli.stack import Stack
from common.errors import UserError
from common.patience import patience
from image.broker.diagnosis import description

SILENCE_SECONDS = 45.0
"""Seconds without a byte in either direction after which a connection counts as lost; the agent replies every 5 s."""

RETRY_SECONDS = 600.0
"""Seconds for which the client reconnects. Time in which the machine sleeps does not count."""

MAX_DELAY_SECONDS = 30.0

AGENT = json.dumps([(Path(__file__).parent / name).read_text() for name in ("pod_files.py", "pod_agent.py")]).encode()
"""The sources that `_START` reads from the first line of its input."""

_START = (
    "import json, sys, types; files, agent = json.loads(sys.stdin.buffer.readline()); "
    "module = sys.modules['cli.pod_files'] = types.ModuleType('cli.pod_files'); "
    "exec(files, module.__dict__); exec(agent, {'__name__': '__main__'})"
)


class Exchange:
    """One `kubectl exec`. feed: writes the data that follows the request. `chunks` are the agent's output."""

    def __init__(self, stack: Stack, request: dict[str, Any], feed: Callable[[Any], None] | None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the exchange
        self._active = time.monotonic()
        self._feed_error: BaseException | None = None
        self._process = subprocess.Popen(
            stack.kubectl.command(
                "exec", "--stdin", f"--pod-running-timeout={patience(20):.0f}s", "--container=scheduler",
                f"deployment/{stack.release}-scheduler", "--", "python3", "-I", "-c", _START,
            ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # Ctrl-C must reach only this program, which then decides
        )  # fmt: skip
        self._feeder = threading.Thread(target=self._write, args=(request, feed), daemon=True)
        self._feeder.start()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._feeder.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def write(self, data: bytes) -> int:
        """Sends data, for `feed`."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._active = time.monotonic()
        return len(data)

    def _write(self, request: dict[str, Any], feed: Callable[[Any], None] | None) -> None:
        assert self._process.stdin is not None
        try:
            self.write(AGENT + b"\n" + json.dumps({"patience": patience(1), **request}).encode() + b"\n")
            if feed:
                feed(self)
        except BrokenPipeError:
            pass  # the reply has the reason
        except Exception as error:  # most likely from a file of the user's; `chunks` raises it
            self._feed_error = error
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def chunks(self) -> Iterator[bytes]:
        """The agent's output until it ends. Raises ConnectionLostError after a long silence."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while True:
            if select.select([out], [], [], 0.5)[0]:
                data = os.read(out, 1 << 16)
                self._active = time.monotonic()
                if not data:
                    break
                yield data
            elif time.monotonic() - self._active > patience(SILENCE_SECONDS):
                raise ConnectionLostError(f"not a byte for {patience(SILENCE_SECONDS):.0f} s")
        if self._feed_error:
            raise self._feed_error

    def error_text(self) -> str:
        """Error output of kubectl, for a message."""
        status = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return text[-600:] or f"kubectl ended with status {status} before the reply was complete"


class Stream:
    """The chunks of an exchange as a readable file."""

    def __init__(self, exchange: Exchange) -> None:
        self._chunks = exchange.chunks()
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, or fewer at the end."""
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part = self._rest[:missing] if size >= 0 else self._rest
            self._rest = self._rest[len(part) :]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


class Client:
    """Requests to the agent in the scheduler pod of a stack. say: prints one line for the user."""

    def __init__(self, stack: Stack, say: Callable[[str], None]) -> None:
        self.stack = stack
        self._say = say

    def request(self, do: str, feed: Callable[[Any], None] | None = None, **details: Any) -> dict[str, Any]:
        """The agent's reply to one request. Raises UserError, or ConnectionLostError where no reply comes."""
        with Exchange(self.stack, {"do": do, **details}, feed) as exchange:
            text = b"".join(exchange.chunks())
            try:
                reply: dict[str, Any] = json.loads(text)
            except ValueError:
                raise ConnectionLostError(exchange.error_text()) from None
        return _checked(reply)

    def request_repeatedly(self, do: str, **details: Any) -> dict[str, Any]:
        """`request`, repeated while the connection is lost; only for requests that may be repeated."""
        reconnect = Reconnect(self, self._say)
        while True:
            try:
                return self.request(do, **details)
            except ConnectionLostError as error:
                reconnect.wait(error)

    def receive(self, take: Callable[[Stream], dict[str, str]], **details: Any) -> dict[str, str]:
        """Passes the tar stream of the agent's reply to `send` on to `take`; returns the result of `take`."""
        with Exchange(self.stack, {"do": "send", **details}, None) as exchange:
            try:
                return take(Stream(exchange))
            except tarfile.TarError as error:
                raise ConnectionLostError(f"the files did not arrive completely: {error}") from None

    def follow(self, run: str, show: Callable[[bytes], None]) -> dict[str, Any]:
        """Passes the run's log to `show` until the run ends, across lost connections; returns its last state."""
        reconnect = Reconnect(self, self._say)
        offset, frame = 0, {"state": "running"}
        while frame["state"] == "running":  # the agent itself ends after some minutes
            try:
                with Exchange(self.stack, {"do": "follow", "run": run, "offset": offset}, None) as exchange:
                    for frame in _frames(exchange):
                        reconnect.connected()
                        data = base64.b64decode(frame.get("log", ""))
                        show(data)
                        offset += len(data)
            except ConnectionLostError as error:
                frame = {"state": "running"}
                reconnect.wait(error)
        return frame

    def pod_state(self) -> str:
        """State of the scheduler pods in words, for a message; empty where the cluster cannot be reached."""
        selector = f"app.kubernetes.io/instance={self.stack.release},app.kubernetes.io/component=scheduler"
        found = self.kubectl("get", "pods", f"--selector={selector}", "--output=json")
        if found is None:
            return ""
        pods = json.loads(found)["items"]
        if not pods:
            return f"there is no scheduler pod in namespace {self.stack.kubectl.namespace}"
        return "; ".join(map(description, pods))

    def kubectl(self, *arguments: str) -> str | None:
        """Standard output of a kubectl command; None where it fails."""
        try:
            done = self.stack.kubectl.run(*arguments, f"--request-timeout={patience(10):.0f}s", timeout=20)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None


def _frames(exchange: Exchange) -> Iterator[dict[str, Any]]:
    """Replies to `follow`. Raises ConnectionLostError where the one that is marked as the last is missing."""
    rest = b""
    for chunk in exchange.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                frame = _checked(json.loads(line))
            except ValueError:
                raise ConnectionLostError(f"malformed reply from the scheduler pod: {line[:200]!r}") from None
            yield {"state": "running", **frame}
            if frame.get("last"):
                return
    raise ConnectionLostError(exchange.error_text())


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise NoSuchRunError(reply["error"]) if reply["missing"] else UserError(f"in the cluster: {reply['error']}")
    return reply


class Reconnect:
    """Pauses between attempts to reconnect, and their end after `RETRY_SECONDS`."""

    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self._client, self._say = client, say
        self._since: float | None = None
        self._delay = 1.0

    def connected(self) -> None:
        """Notes a reply."""
        if self._since is not None:
            self._say("connected again")
        self._since, self._delay = None, 1.0

    def wait(self, error: ConnectionLostError) -> None:
        """Pauses before the next attempt. Raises UserError after the last one."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        state = self._client.pod_state()
        text = f"{error}{f' ({state})' if state else ''}"
        if now - self._since > patience(RETRY_SECONDS):
            raise UserError(
                f"no connection to the scheduler pod for {patience(RETRY_SECONDS) / 60:.0f} minutes: {text}"
            )
        self._say(f"connection lost: {text}; the run continues without it. Next attempt in {self._delay:.0f} s")
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, MAX_DELAY_SECONDS)
