"""The worker's way to the broker: dials, greets, and explains on the log why it cannot."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import protocol, tls, wire
from .log import log

_DIAL_SECONDS = 5.0
_LONGEST_DELAY = 0.9


class VersionError(OSError):
    """The broker states another protocol version than this worker."""


def retry_delay(attempt: int) -> float:
    """Seconds before dialling again after ``attempt`` failures: doubled from 0.1, below 1, with random jitter."""
    return min(_LONGEST_DELAY, 0.1 * 2.0 ** min(attempt, 8)) * random.uniform(0.5, 1.0)  # noqa: S311


class Dialer:
    """Makes connections to the broker."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.host = environ.get("FUTURE_KUBERNETES_SCHEDULER", "")
        if not self.host:
            raise SystemExit(
                "future-worker: FUTURE_KUBERNETES_SCHEDULER is not set; it names the scheduler's service, "
                "as in FUTURE_KUBERNETES_SCHEDULER=my-release-future-kubernetes-broker"
            )
        self._port = int(environ.get("FUTURE_KUBERNETES_PORT", wire.PORT))
        self._release = environ.get("FUTURE_KUBERNETES_RELEASE", "")
        self._identity = {"pod": environ.get("POD_NAME") or socket.gethostname(), "node": environ.get("NODE_NAME", "")}
        self._token_file = Path(environ.get("FUTURE_KUBERNETES_TOKEN_FILE", "/etc/future-kubernetes/secret/token"))
        self._token = tls.read_token(self._token_file)
        self._context = tls.context(self._token, server=False)
        self._reported = ""
        self._attempt = 0

    def greet(self, **message: Any) -> ssl.SSLSocket:
        """A connection that the broker has accepted with this message.

        Raises:
            OSError: when the broker cannot be reached or refuses.
            ValueError: when its answer is malformed.
        """
        sock = self._dial()
        try:
            sock.sendall(wire.encode(**message, protocol=protocol.VERSION, **self._identity))
            answer = wire.decode(read_line(sock))
            mismatch = protocol.worker_mismatch(protocol.VERSION, protocol.stated(answer), self._release)
            if mismatch:
                raise VersionError(mismatch)
            if "error" in answer:
                raise OSError(f"the broker refused: {answer['error']}")
        except BaseException:
            sock.close()
            raise
        return sock

    def _dial(self) -> ssl.SSLSocket:
        # The name is looked up each time: a rescheduled scheduler has another address.
        plain = socket.create_connection((self.host, self._port), timeout=_DIAL_SECONDS)
        try:
            wire.watch_peer(plain)
            return self._context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def offer(self, **message: Any) -> tuple[ssl.SSLSocket | None, float]:
        """Offer this worker to the broker, once.

        Args:
            message: ``unused`` (seconds since it last worked: a restarted broker resumes its idle count from them),
                and what it still runs.

        Returns:
            The connection, or None and the number of seconds to wait before the next attempt.
        """
        try:
            sock = self.greet(op="worker", **message)
        except (OSError, ValueError) as error:
            self._explain(error)
            self._attempt += 1
            pause = protocol.RETRY_SECONDS if isinstance(error, VersionError) else retry_delay(self._attempt - 1)
            return None, pause
        self._attempt = 0
        self._report(f"connected to {self.host}")
        return sock, 0.0

    def notify(self, **message: Any) -> None:
        """Send the broker what the attached connection cannot carry; best effort."""
        try:
            self.greet(**message).close()
        except (OSError, ValueError) as error:
            log(f"could not tell the broker of {message['op']}: {error}")

    def _explain(self, error: Exception) -> None:
        if isinstance(error, ssl.SSLError):
            token = tls.read_token(self._token_file)
            if token != self._token:
                self._token, self._context = token, tls.context(token, server=False)
            self._report(
                f"{self.host}:{self._port} does not hold this release's token, or refuses ours ({error}); "
                "if the Secret was changed, restart scheduler and workers"
            )
        elif isinstance(error, VersionError):
            self._report(f"this worker does not fit the broker at {self.host}:{self._port}: {error}")
        else:
            self._report(f"cannot reach the scheduler at {self.host}:{self._port} yet: {error}")

    def _report(self, message: str) -> None:
        """Log a message, unless it is the same as the last one."""
        if message != self._reported:
            self._reported = message
            log(message)


def read_line(sock: socket.socket) -> bytes:
    """One line of a blocking socket, and nothing past it.

    Raises:
        OSError: at the end of the stream, after the socket's timeout, or past ``wire.MAX_LINE`` bytes.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = sock.recv(1)
        line += piece
        if not piece or len(line) > wire.MAX_LINE:
            raise OSError("the broker closed the connection")
    return line
