"""Answers the kubelet's probes and takes signals in a thread of its own, so that a slow name server delays neither."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable

from ..common import wire

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Attendant:
    """Listens for probes and signals."""

    def __init__(self, port: int, state: Callable[[], tuple[str, bool]], signalled: Callable[[int], None]) -> None:
        self._port = port
        self._state = state
        self._signalled = signalled

    def start(self) -> None:
        """Take over the signals of this process, and start the thread."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(wake_read, True)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # Python drops a signal that has no handler of its own
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        http = socket.create_server(("", self._port), backlog=16)
        threading.Thread(target=self._attend, args=(wake_read, http), daemon=True).start()

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
                        self._answer(http)

    def _answer(self, http: socket.socket) -> None:
        """Answer /readyz by the state, and /livez always with success."""
        sock, _ = http.accept()
        with sock:
            sock.settimeout(1.0)
            path = sock.recv(wire.MAX_LINE).split(b" ")[1:2]
            state, ready = self._state()
            good = ready or path == [b"/livez"]
            body = state.encode() + b"\n"
            status = b"200 OK" if good else b"503 Service Unavailable"
            sock.sendall(b"HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
