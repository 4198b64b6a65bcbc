"""A socket that carries lines and bodies: the agent's side of the broker's connection, and of its R's."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

from ..common import wire
from ..common.blob import Blob

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ_BYTES = 256 * 1024
_RECORD_BYTES = 16 * 1024
"""Most that one TLS record holds; a read with less room would leave its rest where poll() does not see it."""


class ChannelError(OSError):
    """The other end has closed, or has fallen silent."""


class Channel:
    """Lines and bodies over a socket that never blocks; waits end early when ``gone`` says so."""

    def __init__(self, sock: socket.socket, gone: Callable[[], bool] = lambda: False, *, watch: bool = False) -> None:
        """Take over a socket.

        Args:
            sock: the socket, plain or TLS.
            gone: asked every half second of a wait; True if waiting on is of no use.
            watch: also end a wait when the peer's network falls silent.
        """
        sock.setblocking(False)
        self.socket = sock
        self._gone = gone
        self._watch = watch
        self._buffer = bytearray()
        self._chunk = memoryview(bytearray(_READ_BYTES + _RECORD_BYTES))
        self._silent = 0
        self._checked = time.monotonic()

    def fill(self) -> bool:
        """Read what is there now, up to some 256 KiB; True if that was anything.

        Raises:
            ChannelError: at the end of the stream.
        """
        size = self._receive()
        self._buffer += self._chunk[:size]
        return size > 0

    def _receive(self) -> int:
        """Read what is there now into the chunk; the number of bytes.

        One chunk serves all reads: a fresh 256 KiB for each record of 16 KiB cost more than to decrypt it.
        """
        size = 0
        while size < _READ_BYTES:
            try:
                count = self.socket.recv_into(self._chunk[size:])
            except _NOT_NOW:
                break
            except OSError as error:
                raise ChannelError(str(error)) from None
            if not count:
                if size:
                    break  # the end is seen again by the next call
                raise ChannelError("the other end has closed")
            size += count
        return size

    def line(self) -> bytes | None:
        """The next line without its newline; None while it is not complete.

        Raises:
            ChannelError: when it is longer than ``wire.MAX_LINE``.
        """
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > wire.MAX_LINE:
                raise ChannelError("a line is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def take(self, size: int) -> memoryview:
        """Up to ``size`` of the bytes that follow; waits for the first. They are valid until the next read."""
        if self._buffer:
            piece = memoryview(bytes(self._buffer[: min(size, _READ_BYTES)]))
            del self._buffer[: len(piece)]
            return piece
        while not (count := self._receive()):
            self._wait(select.POLLIN)
        self._buffer += self._chunk[size:count]
        return self._chunk[: min(size, count)]

    def body(self, size: int) -> Blob | None:
        """The body that follows; None if the disk is full, after it was read all the same."""
        blob: Blob | None = None
        with contextlib.suppress(OSError):
            blob = Blob(size)
        while size:
            piece = self.take(size)
            size -= len(piece)
            try:
                if blob is not None:
                    blob.write(piece)
            except OSError:
                blob = None
        return blob

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
            except _NOT_NOW:
                self._wait(select.POLLOUT)
            except OSError as error:
                raise ChannelError(str(error)) from None

    def _wait(self, events: int) -> None:
        poller = select.poll()
        poller.register(self.socket, events)
        while not poller.poll(500):
            if self._gone() or self.silent():
                raise ChannelError("the other end does not answer")

    def silent(self) -> bool:
        """True if the peer's network has fallen silent; looks at it every ``wire.CHECK_SECONDS``."""
        if self._watch and time.monotonic() - self._checked >= wire.CHECK_SECONDS:
            self._checked = time.monotonic()
            self._silent = self._silent + 1 if wire.peer_is_silent(self.socket) else 0
        return self._silent >= 2

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
