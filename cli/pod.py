"""Requests to the scheduler pod, each by a `kubectl exec` of its own, and what to do when one gets no whole answer.

Nothing of a request is in an argument: program, request and files go through standard input.
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

from batch.errors import BatchError, ConnectionLostError
from batch.remote import NoSuchRunError
from batch.stack import Stack

SILENCE_SECONDS = 45.0
"""A connection without a byte in either direction for so long is lost; the pod gives a sign of life every 5 s."""

RETRY_SECONDS = 600.0
"""How long a lost connection is tried again. A laptop's sleep does not count."""

LONGEST_DELAY_SECONDS = 30.0

_REMOTE = (Path(__file__).parent / "remote.py").read_bytes()
_START = "import sys; i = sys.stdin.buffer; exec(i.read(int(i.readline())))"


class Exchange:
    """One `kubectl exec`: `feed` writes what follows the request, `chunks` gives what the pod says."""

    def __init__(self, stack: Stack, request: dict[str, Any], feed: Callable[[Any], None] | None) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the exchange
        self._active = time.monotonic()
        self._feed_error: BaseException | None = None
        self._process = subprocess.Popen(
            stack.kubectl_command(
                "exec", "--stdin", "--pod-running-timeout=20s", "--container=scheduler",
                f"deployment/{stack.release}-scheduler", "--", "python3", "-I", "-c", _START,
            ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
            start_new_session=True,  # Ctrl-C is for this program, which then decides
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
        self._complaints.close()

    def write(self, data: bytes) -> int:
        """For `feed`: passes data on, and notes that it went."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._active = time.monotonic()
        return len(data)

    def _write(self, request: dict[str, Any], feed: Callable[[Any], None] | None) -> None:
        assert self._process.stdin is not None
        try:
            self.write(b"%d\n" % len(_REMOTE) + _REMOTE + json.dumps(request).encode() + b"\n")
            if feed:
                feed(self)
        except BrokenPipeError:
            pass  # the answer tells why
        except Exception as error:  # a file of the user's, most likely; raised where it is waited for
            self._feed_error = error
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def chunks(self) -> Iterator[bytes]:
        """What the pod says, until it has ended. Raises ConnectionLostError after a long silence."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while True:
            if select.select([out], [], [], 0.5)[0]:
                data = os.read(out, 1 << 16)
                self._active = time.monotonic()
                if not data:
                    break
                yield data
            elif time.monotonic() - self._active > SILENCE_SECONDS:
                raise ConnectionLostError(f"not a byte for {SILENCE_SECONDS:.0f} s")
        if self._feed_error:
            raise self._feed_error

    def complaint(self) -> str:
        """What kubectl had to say, for a message."""
        status = self._process.wait()
        self._complaints.seek(0)
        text = self._complaints.read().decode(errors="replace").strip()
        return text[-600:] or f"kubectl ended with status {status} before the answer was whole"


class Stream:
    """The chunks of an exchange as a file to read."""

    def __init__(self, exchange: Exchange) -> None:
        self._chunks = exchange.chunks()
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for; fewer at the end alone."""
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


class Scheduler:
    """The scheduler pod of a stack."""

    def __init__(self, stack: Stack, say: Callable[[str], None]) -> None:
        self.stack = stack
        self._say = say

    def ask(self, do: str, feed: Callable[[Any], None] | None = None, **details: Any) -> dict[str, Any]:
        """The pod's answer to one request. Raises BatchError, or ConnectionLostError where there is none."""
        with Exchange(self.stack, {"do": do, **details}, feed) as exchange:
            text = b"".join(exchange.chunks())
            try:
                answer: dict[str, Any] = json.loads(text)
            except ValueError:
                raise ConnectionLostError(exchange.complaint()) from None
        return _checked(answer)

    def insist(self, do: str, **details: Any) -> dict[str, Any]:
        """`ask`, again and again for some minutes while the connection is lost; for requests that may be repeated."""
        patience = Patience(self, self._say)
        while True:
            try:
                return self.ask(do, **details)
            except ConnectionLostError as error:
                patience.wait(error)

    def receive(self, take: Callable[[Stream], dict[str, str]], **details: Any) -> dict[str, str]:
        """Hands the stream that answers `send` to `take`; returns what that makes of it."""
        with Exchange(self.stack, {"do": "send", **details}, None) as exchange:
            try:
                return take(Stream(exchange))
            except tarfile.TarError as error:
                raise ConnectionLostError(f"the files did not arrive whole: {error}") from None

    def follow(self, run: str, show: Callable[[bytes], None]) -> dict[str, Any]:
        """Shows the run's log until it has ended, whatever the connection does; returns how it ended."""
        patience = Patience(self, self._say)
        offset, frame = 0, {"state": "running"}
        while frame["state"] == "running":  # the pod itself ends what follows a log from time to time
            try:
                with Exchange(self.stack, {"do": "follow", "run": run, "offset": offset}, None) as exchange:
                    for frame in _frames(exchange):
                        patience.contact()
                        data = base64.b64decode(frame.get("log", ""))
                        show(data)
                        offset += len(data)
            except ConnectionLostError as error:
                frame = {"state": "running"}
                patience.wait(error)
        return frame

    def how_it_stands(self) -> str:
        """The scheduler pods in words, for a message; empty where the cluster cannot be asked."""
        selector = f"app.kubernetes.io/instance={self.stack.release},app.kubernetes.io/component=scheduler"
        found = self.kubectl("get", "pods", f"--selector={selector}", "--output=json")
        if found is None:
            return ""
        pods = json.loads(found)["items"]
        if not pods:
            return f"there is no scheduler pod in namespace {self.stack.namespace}"
        return "; ".join(map(_in_words, pods))

    def kubectl(self, *arguments: str) -> str | None:
        """Standard output of a kubectl command, or None where it failed."""
        try:
            done = subprocess.run(
                self.stack.kubectl_command(*arguments, "--request-timeout=10s"),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None


def _frames(exchange: Exchange) -> Iterator[dict[str, Any]]:
    """The answers of `follow`, of which the last says that it is. Raises ConnectionLostError where it is missing."""
    rest = b""
    for chunk in exchange.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                frame = _checked(json.loads(line))
            except ValueError:
                raise ConnectionLostError(f"an answer that is none: {line[:200]!r}") from None
            yield {"state": "running", **frame}
            if frame.get("last"):
                return
    raise ConnectionLostError(exchange.complaint())


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise NoSuchRunError(answer["error"]) if answer["missing"] else BatchError(f"in the cluster: {answer['error']}")
    return answer


def _in_words(pod: dict[str, Any]) -> str:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return f"{name} is being removed"
    words = [f"{name} is {status.get('phase', 'Unknown')}"]
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    if conditions.get("PodScheduled", {}).get("status") == "False":
        words.append(conditions["PodScheduled"].get("message", ""))
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            words.append(f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip())
        ended = container.get("lastState", {}).get("terminated")
        if ended:
            words.append(f"it was restarted after {ended.get('reason', 'an end')} (status {ended.get('exitCode')})")
    return ", ".join(filter(None, words)) + f", since {status.get('startTime', 'a moment ago')}"


class Patience:
    """How long a lost connection is tried again, and with which pauses."""

    def __init__(self, scheduler: Scheduler, say: Callable[[str], None]) -> None:
        self._scheduler, self._say = scheduler, say
        self._since: float | None = None
        self._delay = 1.0

    def contact(self) -> None:
        """There was an answer."""
        if self._since is not None:
            self._say("connected again")
        self._since, self._delay = None, 1.0

    def wait(self, error: ConnectionLostError) -> None:
        """Pauses before the next attempt. Raises BatchError once it is enough."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        how = self._scheduler.how_it_stands()
        text = f"{error}{f' ({how})' if how else ''}"
        if now - self._since > RETRY_SECONDS:
            raise BatchError(f"no connection to the scheduler pod for {RETRY_SECONDS / 60:.0f} minutes: {text}")
        self._say(f"connection lost: {text}; the run does not need it. Trying again in {self._delay:.0f} s")
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)
