"""The worker's agent: keeps one fresh R process ready and joins it to the R session that the broker names.

It is the first process of the worker's container: it starts R, reaps what R leaves behind, answers the probes and
turns SIGTERM into an orderly end. It knows nothing of futures; R's stream passes through unread.

Environment: FUTURE_KUBERNETES_SCHEDULER (name of the scheduler's service, required), POD_NAME, NODE_NAME.
For tests: FUTURE_KUBERNETES_{PORT,TOKEN_FILE,RUN,HTTP_PORT,R}.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shlex
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from ..common import process, tls, wire

_R_PROGRAM = Path(__file__).with_name("worker.R")
_R_START_SECONDS = 120.0
_R_LEAVE_SECONDS = 0.3
_DIAL_SECONDS = 5.0
_FAREWELL_SECONDS = 1.0
_LONGEST_DELAY = 0.9

Ready = frozenset({"idle", "busy", "draining"})
"""States in which the worker's connection stands."""


def log(message: str) -> None:
    """One line on the container's log."""
    print(f"future-worker: {message}", file=sys.stderr, flush=True)


def retry_delay(attempt: int) -> float:
    """Seconds before dialling again after ``attempt`` failures: doubled from 0.1, below a second, half of it drawn."""
    return min(_LONGEST_DELAY, 0.1 * 2.0 ** min(attempt, 8)) * random.uniform(0.5, 1.0)  # noqa: S311


def oom_kills() -> int:
    """How many processes of this container the kernel has killed for want of memory (cgroup v2, else v1)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def memory_limit_mib() -> int | None:
    """The container's memory limit in MiB (cgroup v2, else v1); None when there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(path).read_text())
            return limit >> 20 if limit < 1 << 60 else None  # v1 says "none" by a number near 2**63
    return None


class Children:
    """Reaps every child, and orphans too when it is the first process, and remembers how each ended."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._change = threading.Condition()

    def reap(self) -> None:
        """Collect all that have ended; called for each SIGCHLD."""
        with self._change:
            with contextlib.suppress(ChildProcessError):
                while True:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    self._ended[pid] = os.waitstatus_to_exitcode(status)
            self._change.notify_all()

    def wait(self, pid: int, seconds: float) -> int | None:
        """Exit status of ``pid``, negative for a signal; None when it still runs after ``seconds``."""
        with self._change:
            self._change.wait_for(lambda: pid in self._ended, seconds)
            return self._ended.get(pid)

    def forget(self, pid: int) -> None:
        """Drop what is known of ``pid``: the number may be given to another process."""
        with self._change:
            self._ended.pop(pid, None)


class RProcess:
    """One R process that waits in R's own worker loop, connected to this agent over loopback."""

    def __init__(self, command: list[str], children: Children) -> None:
        self._children = children
        self._folder = tempfile.mkdtemp(prefix="future-worker-")
        self._stopped = False
        self._status: int | None = None
        self.oom_before = oom_kills()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            arguments = {
                "MASTER": "127.0.0.1",
                "PORT": port,
                "OUT": "",  # what R prints outside a future goes to the pod's log
                "TIMEOUT": 30 * 24 * 3600,  # parallelly's default, the longest that a session may stay silent
                "XDR": "FALSE",
                "SETUPTIMEOUT": int(_R_START_SECONDS),
                "SETUPSTRATEGY": "sequential",
            }
            self.pid = process.spawn(
                [*command, *(f"{name}={value}" for name, value in arguments.items())],
                {**os.environ, "TMPDIR": self._folder},
            )
            self.socket = self._accept(listener)

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.5)
        deadline = time.monotonic() + _R_START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            status = self._children.wait(self.pid, 0)
            if status is not None:
                self.stop()
                raise OSError(f"R ended with status {status} before it was ready; its messages are above")
        self.stop()
        raise OSError(f"R was not ready within {_R_START_SECONDS:.0f} s; its messages are above")

    def stop(self) -> int | None:
        """End R and all that it started, remove its temporary files; its exit status. May be called again."""
        if self._stopped:
            return self._status
        self._stopped = True
        if hasattr(self, "socket"):
            self.socket.close()
        status = self._children.wait(self.pid, _R_LEAVE_SECONDS)
        if status is None:
            self._kill(signal.SIGTERM)
            status = self._children.wait(self.pid, 1.0)
        self._kill(signal.SIGKILL)
        self._status = self._children.wait(self.pid, 5.0)
        self._children.forget(self.pid)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._status

    def abandon(self) -> None:
        """End it without waiting, because this process ends next."""
        self._kill(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Agent:
    """The worker's life: start R, dial, wait to be attached, relay, again."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._host = environ.get("FUTURE_KUBERNETES_SCHEDULER", "")
        if not self._host:
            raise SystemExit(
                "future-worker: FUTURE_KUBERNETES_SCHEDULER is not set; it names the scheduler's service, "
                "as in FUTURE_KUBERNETES_SCHEDULER=my-release-future-kubernetes"
            )
        self._port = int(environ.get("FUTURE_KUBERNETES_PORT", wire.PORT))
        self._token_file = Path(environ.get("FUTURE_KUBERNETES_TOKEN_FILE", "/etc/future-kubernetes/secret/token"))
        self._state_file = Path(environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")) / "worker.state"
        self._http_port = int(environ.get("FUTURE_KUBERNETES_HTTP_PORT", wire.HTTP_PORT))
        command = environ.get("FUTURE_KUBERNETES_R")
        self._command = shlex.split(command) if command else ["Rscript", str(_R_PROGRAM)]
        self._identity = {"pod": environ.get("POD_NAME") or socket.gethostname(), "node": environ.get("NODE_NAME", "")}
        self._children = Children()
        self._lock = threading.Lock()
        self._stopping = False
        self._state = ""
        self._attached: str | None = None
        self._used = time.monotonic()  # when a session last let this worker go, or its own start
        self._r: RProcess | None = None
        self._said = ""
        self._set_state("starting")
        self._token = tls.read_token(self._token_file)
        self._context = tls.context(self._token, server=False)

    # The probes and the signals: a thread of their own, so that a slow name server delays neither.

    def _set_state(self, state: str) -> None:
        self._state = state
        self._state_file.write_text(state + "\n")

    def _attend(self, wake: int, http: socket.socket) -> None:
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        poller.register(http, select.POLLIN)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == wake:
                    for number in os.read(wake, 64):
                        self._signalled(number)
                else:
                    with contextlib.suppress(OSError):
                        self._answer_probe(http)

    def _answer_probe(self, http: socket.socket) -> None:
        sock, _ = http.accept()
        with sock:
            sock.settimeout(1.0)
            path = sock.recv(wire.MAX_LINE).split(b" ")[1:2]
            good = self._state in Ready or path == [b"/livez"]
            body = self._state.encode() + b"\n"
            status = b"200 OK" if good else b"503 Service Unavailable"
            sock.sendall(b"HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._children.reap()
            return
        with self._lock:
            if self._attached is None:
                if self._state not in Ready:  # no connection whose end would tell; a session may count on its return
                    telling = threading.Thread(target=self._notify, kwargs={"op": "draining"}, daemon=True)
                    telling.start()
                    telling.join(_FAREWELL_SECONDS)
                self._leave(f"told to go ({signal.Signals(number).name}) while {self._state}")
            if self._stopping:
                return
            self._stopping = True
            self._set_state("draining")
        log(f"told to go ({signal.Signals(number).name}) while busy: this worker's future may finish, none follows")
        threading.Thread(target=self._notify, kwargs={"op": "draining", "id": self._attached}, daemon=True).start()

    def _leave(self, reason: str) -> NoReturn:
        log(reason)
        if self._r is not None:
            self._r.abandon()
        os._exit(0)

    # The connection.

    def _dial(self) -> ssl.SSLSocket:
        # The name is looked up anew each time: a rescheduled scheduler has another address.
        plain = socket.create_connection((self._host, self._port), timeout=_DIAL_SECONDS)
        try:
            wire.watch_peer(plain)
            return self._context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def _greet(self, sock: ssl.SSLSocket, **message: Any) -> None:
        sock.sendall(wire.encode(**message, **self._identity))
        answer = wire.decode(read_line(sock))
        if "error" in answer:
            raise OSError(f"the broker said: {answer['error']}")

    def _notify(self, **message: Any) -> None:
        """Tell the broker what the attached connection cannot carry; best effort."""
        try:
            with self._dial() as sock:
                self._greet(sock, **message)
        except (OSError, ValueError) as error:
            log(f"could not tell the broker of {message['op']}: {error}")

    def _connect(self, r: RProcess) -> ssl.SSLSocket | None:
        """A connection that the broker has accepted; None when R ended meanwhile."""
        attempt = 0
        while True:
            sock = None
            try:
                sock = self._dial()
                # A restarted broker knows from it since when nobody has used its workers.
                self._greet(sock, op="worker", unused=int(time.monotonic() - self._used))
                self._say(f"connected to {self._host}")
                return sock
            except (OSError, ValueError) as error:
                if sock is not None:
                    sock.close()
                self._explain(error)
            if readable(r.socket, retry_delay(attempt)):
                return None
            attempt += 1

    def _explain(self, error: Exception) -> None:
        if isinstance(error, ssl.SSLError):
            token = tls.read_token(self._token_file)
            if token != self._token:
                self._token, self._context = token, tls.context(token, server=False)
            self._say(
                f"{self._host}:{self._port} does not hold this release's token, or refuses ours ({error}); "
                "if the Secret was changed, restart scheduler and workers"
            )
        else:
            self._say(f"cannot reach the scheduler at {self._host}:{self._port} yet: {error}")

    def _say(self, message: str) -> None:
        if message != self._said:
            self._said = message
            log(message)

    def _await_attach(self, sock: ssl.SSLSocket, r: RProcess) -> bool | None:
        """True: attached to a session. False: the connection was lost. None: R ended."""
        sock.setblocking(False)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(r.socket, select.POLLIN)
        line = b""
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if r.socket.fileno() in ready:
                return None  # R speaks only when spoken to: this is its end
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
                if message["op"] in ("retire", "recall"):
                    # Unready, so that Kubernetes takes this pod before one in use; back to work if it does not.
                    self._set_state("retiring" if message["op"] == "retire" else "idle")
                    continue
                with self._lock:
                    self._attached = str(message["id"])
                    self._set_state("busy")
                sock.sendall(wire.encode(op="attached"))
                return True

    # The loop.

    def _one_use(self) -> None:
        self._r = r = RProcess(self._command, self._children)
        try:
            attached: bool | None = False
            while attached is False:
                self._set_state("connecting")
                sock = self._connect(r)
                if sock is None:
                    attached = None
                    break
                self._set_state("idle")
                attached = self._await_attach(sock, r)
                if not attached:
                    sock.close()
            if attached is None or sock is None:
                log(f"R ended with status {r.stop()} while it waited; starting another")
                return
            if relay(sock, r.socket) == "r":
                self._report_end(r)
            sock.close()
        finally:
            r.stop()
            with self._lock:
                if self._attached is not None:
                    self._used = time.monotonic()
                self._attached = None
                if self._stopping:
                    self._leave("the session has let this worker go: leaving")
                self._r = None

    def _report_end(self, r: RProcess) -> None:
        """Say how R ended before the session sees its connection close, so that it can name the cause."""
        status = self._children.wait(r.pid, 2.0)
        oom = oom_kills() > r.oom_before
        if status != 0:
            log(f"R ended with status {status} in use" + (", for want of memory" if oom else ""))
        self._notify(op="ended", id=self._attached, status=status, oom=oom, limit=memory_limit_mib() if oom else None)

    def run(self) -> NoReturn:
        """Serve until SIGTERM."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(wake_read, True)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # Python drops a signal that has no handler of its own
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        http = socket.create_server(("", self._http_port), backlog=16)
        threading.Thread(target=self._attend, args=(wake_read, http), daemon=True).start()
        failures = 0
        while True:
            try:
                self._set_state("starting")
                self._one_use()
                failures = 0
            except OSError as error:
                log(str(error))
                failures += 1
                time.sleep(min(30.0, 2.0**failures))


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


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether ``sock`` has something to read, or has ended, within ``seconds``."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def relay(session: ssl.SSLSocket, r: socket.socket) -> str:
    """Pass bytes both ways until one side ends; ``"session"`` or ``"r"``, whichever did.

    A side that does not read is waited for: what the other sends stays in its own buffers.
    """
    session.setblocking(False)
    r.setblocking(False)
    buffers = bytearray(wire.RELAY_BYTES), bytearray(wire.RELAY_BYTES)
    to_r = to_session = memoryview(b"")
    r_ended = False
    silent = 0
    checked = time.monotonic()
    while True:
        try:
            to_r = to_r or _take(session, buffers[0])
            sent = _send(session, to_session)
        except OSError:
            return "session"
        to_session = to_session[sent:]
        moved = sent > 0
        try:
            to_session = to_session or (memoryview(b"") if r_ended else _take(r, buffers[1]))
            sent = _send(r, to_r)
            to_r = to_r[sent:]
            moved = moved or sent > 0
        except OSError:
            r_ended = True
        if r_ended and not to_session:
            return "r"
        if moved:
            continue
        poller = select.poll()
        for sock, events in (
            (session, (select.POLLIN if not to_r else 0) | (select.POLLOUT if to_session else 0)),
            (r, 0 if r_ended else (select.POLLIN if not to_session else 0) | (select.POLLOUT if to_r else 0)),
        ):
            if events:
                poller.register(sock, events)
        poller.poll(wire.CHECK_SECONDS * 1000)
        if time.monotonic() - checked >= wire.CHECK_SECONDS:
            checked = time.monotonic()
            silent = silent + 1 if wire.peer_is_silent(session) else 0
            if silent == 2:
                return "session"


_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _send(sock: socket.socket, data: memoryview) -> int:
    """How many bytes of ``data`` the socket took now."""
    if not data:
        return 0
    try:
        return sock.send(data)
    except _NOT_NOW:
        return 0


def _take(sock: socket.socket, buffer: bytearray) -> memoryview:
    """All that can be read now, up to the buffer's size; empty when there is nothing.

    Raises:
        OSError: at the end of the stream.
    """
    view = memoryview(buffer)
    size = 0
    try:
        while size < len(buffer):
            more = sock.recv_into(view[size:])
            if more == 0:
                if size:
                    break  # the end is seen again by the next call
                raise ConnectionResetError("the stream ended")
            size += more
            if not isinstance(sock, ssl.SSLSocket):
                break  # a TLS record is 16 KiB at most; a plain socket gives all it has at once
    except _NOT_NOW:
        pass
    return view[:size]


def main() -> None:
    """Run the agent with the container's environment."""
    try:
        Agent(dict(os.environ)).run()
    except tls.TokenError as error:
        raise SystemExit(f"future-worker: {error}") from None


if __name__ == "__main__":
    main()
