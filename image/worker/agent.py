"""The worker's agent: keeps one fresh R process ready and joins it to the R session that the broker names.

It is the first process of the worker's container: it starts R, reaps orphans, answers the probes and turns SIGTERM into
an orderly end. It knows nothing of futures; R's stream passes through unread.

Environment: FUTURE_KUBERNETES_SCHEDULER (name of the scheduler's service, required), FUTURE_KUBERNETES_RELEASE,
POD_NAME, NODE_NAME.
For tests: FUTURE_KUBERNETES_{PORT,TOKEN_FILE,HTTP_PORT,R}.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import ssl
import threading
import time
from typing import NoReturn

from ..common import tls, wire
from . import cgroup
from .dialer import Dialer
from .log import log
from .probes import Attendant
from .r_process import PROGRAM, Children, RProcess
from .relay import readable, relay

_FAREWELL_SECONDS = 1.0

CONNECTED = frozenset({"idle", "busy", "draining"})
"""States in which the worker's connection stands: the readiness probe succeeds."""


class Agent:
    """The worker's life: start R, dial, wait for a session, relay, and again."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._dialer = Dialer(environ)
        self._http_port = int(environ.get("FUTURE_KUBERNETES_HTTP_PORT", wire.HTTP_PORT))
        command = environ.get("FUTURE_KUBERNETES_R")
        self._command = shlex.split(command) if command else ["Rscript", str(PROGRAM)]
        self._children = Children()
        self._lock = threading.Lock()
        self._stopping = False
        self._state = "starting"
        self._lease: str | None = None
        self._used = time.monotonic()  # when a session last released this worker, or its own start
        self._r: RProcess | None = None

    def _probed(self) -> tuple[str, bool]:
        """The state, and True if it is one of a ready worker."""
        return self._state, self._state in CONNECTED

    # Signals, handled in the attendant's thread.

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._children.reap()
            return
        name = signal.Signals(number).name
        with self._lock:
            if self._lease is None:
                if self._state not in CONNECTED:  # no connection whose end says it; a session may count on the return
                    notice = threading.Thread(target=self._dialer.notify, kwargs={"op": "draining"}, daemon=True)
                    notice.start()
                    notice.join(_FAREWELL_SECONDS)
                self._leave(f"told to go ({name}) while {self._state}")
            if self._stopping:
                return
            self._stopping = True
            self._state = "draining"
        log(f"told to go ({name}) while busy: this worker's future may finish, none follows")
        message = {"op": "draining", "id": self._lease}
        threading.Thread(target=self._dialer.notify, kwargs=message, daemon=True).start()

    def _leave(self, reason: str) -> NoReturn:
        log(reason)
        if self._r is not None:
            self._r.abandon()
        os._exit(0)

    # The loop.

    def _one_use(self) -> None:
        """Start R, wait for a session, and relay until either ends."""
        self._r = r = RProcess(self._command, self._children)
        try:
            sock = self._await_session(r)
            if sock is None:
                log(f"R ended with status {r.stop()} while it waited; starting another")
                return
            if relay(sock, r.socket) == "r":
                self._report_end(r)
            sock.close()
        finally:
            r.stop()
            with self._lock:
                if self._lease is not None:
                    self._used = time.monotonic()
                self._lease = None
                if self._stopping:
                    self._leave("the session has released this worker: leaving")
                self._r = None

    def _await_session(self, r: RProcess) -> ssl.SSLSocket | None:
        """The connection to the broker, leased to a session; None when R ended before."""
        while True:
            self._state = "connecting"
            sock = self._dialer.connect(lambda pause: readable(r.socket, pause), self._unused)
            if sock is None:
                return None
            self._state = "idle"
            leased = self._await_lease(sock, r)
            if leased:
                return sock
            sock.close()
            if leased is None:
                return None

    def _unused(self) -> int:
        return int(time.monotonic() - self._used)

    def _await_lease(self, sock: ssl.SSLSocket, r: RProcess) -> bool | None:
        """True once the worker is leased to a session, False when the connection was lost, None when R ended."""
        sock.setblocking(False)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(r.socket, select.POLLIN)
        line = b""
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if r.socket.fileno() in ready:
                return None  # R sends nothing before it is called: this is its end
            try:
                piece = sock.recv(wire.MAX_LINE)
            except ssl.SSLWantReadError:
                continue
            except OSError:
                return False
            line += piece
            if not piece or len(line) > wire.MAX_LINE:
                return False
            while b"\n" in line:
                first, _, line = line.partition(b"\n")
                message = wire.decode(first)
                if message["op"] in ("retire", "reinstate"):
                    # Unready, so that Kubernetes deletes this pod before one in use; ready again if it does not.
                    self._state = "retiring" if message["op"] == "retire" else "idle"
                    continue
                with self._lock:
                    self._lease = str(message["id"])
                    self._state = "busy"
                sock.sendall(wire.encode(op="attached"))
                return True

    def _report_end(self, r: RProcess) -> None:
        """Report how R ended before the session sees its connection close, so that the session can name the cause."""
        status = r.wait(2.0)
        oom = cgroup.oom_kills() > r.oom_before
        if status != 0:
            log(f"R ended with status {status} in use" + (", out of memory" if oom else ""))
        limit = cgroup.memory_limit_mib() if oom else None
        self._dialer.notify(op="ended", id=self._lease, status=status, oom=oom, limit=limit)

    def run(self) -> NoReturn:
        """Serve until SIGTERM."""
        Attendant(self._http_port, self._probed, self._signalled).start()
        failures = 0
        while True:
            try:
                self._state = "starting"
                self._one_use()
                failures = 0
            except OSError as error:
                log(str(error))
                failures += 1
                time.sleep(min(30.0, 2.0**failures))


def main() -> None:
    """Run the agent with the container's environment."""
    try:
        Agent(dict(os.environ)).run()
    except tls.TokenError as error:
        raise SystemExit(f"future-worker: {error}") from None


if __name__ == "__main__":
    main()
