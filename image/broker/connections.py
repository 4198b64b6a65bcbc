"""Connections of the broker: lines and bodies and, once joined to a peer, bytes that pass through unread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ..common import wire
from ..common.blob import Blob

_BUFFER_BYTES = 1024 * 1024

_received = bytearray(64 * 1024)
"""Encrypted bytes of whichever TLS connection reads now, see ``share_buffer``."""
_received_view = memoryview(_received)


def share_buffer(transport: asyncio.BaseTransport) -> None:
    """Let a TLS connection read into the buffer that all of them share.

    asyncio gives each connection a buffer of its own, which held half of the broker's memory with 1,000 workers. Yet
    its event loop empties the buffer right after each read, before another connection can read. The attributes are
    asyncio's own, the same from Python 3.11 to 3.14. Where they are missing, connections keep their buffers.
    """
    layer: Any = getattr(transport, "_ssl_protocol", None)
    if hasattr(layer, "_ssl_buffer") and hasattr(layer, "_ssl_buffer_view"):
        layer._ssl_buffer, layer._ssl_buffer_view = _received, _received_view


class Connection(asyncio.Protocol):
    """One connection that speaks lines, each with a body of bytes if its handler expects one.

    It passes bytes to its ``peer`` unread from the moment that it has one.
    """

    peer: Connection | None = None
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.open = False
        self._line = b""
        self._body: Blob | None = None
        self._left = 0
        self._then: Callable[[Blob | None], None] = lambda _: None
        self._outbox: deque[bytes | Blob] = deque()
        self._offset = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up; a worker has passed the TLS handshake by now."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        share_buffer(transport)
        self.open = True
        self.socket = transport.get_extra_info("socket")
        wire.watch_peer(self.socket)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the peer, or split them into lines and bodies while there is none."""
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        if self._line:
            data, self._line = self._line + data, b""
        start = 0
        while self.open and self.peer is None:
            if self._left:
                piece = memoryview(data)[start : start + self._left]
                if not piece:
                    break
                start += len(piece)
                self._take(piece)
                continue
            end = data.find(b"\n", start)
            if end < 0:
                break
            line, start = data[start:end], end + 1
            self.line_received(line)
        if self.peer is not None and start < len(data):
            self.peer.transport.write(data[start:])
        elif self.open and not self._left:
            self._line = data[start:]
            if len(self._line) > wire.MAX_LINE:
                self.drop()

    def expect(self, size: int, then: Callable[[Blob | None], None], folder: Path | None = None) -> None:
        """Take the next ``size`` bytes as a body, and call ``then`` with it; with None if it could not be kept."""
        try:
            self._body = Blob(size, folder)
        except OSError:
            self._body = None
        self._left, self._then = size, then
        if not size:
            self._take(memoryview(b""))

    def _take(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self._body is not None:
            try:
                self._body.write(piece)
            except OSError:  # the disk is full: the rest is read, and dropped
                self._body.remove()
                self._body = None
        if not self._left:
            body, self._body = self._body, None
            self._then(body)

    def line_received(self, line: bytes) -> None:
        """Handle one line, without its newline."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Stop reading from the peer while this connection's reader is slow."""
        self._paused = True
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the peer again, and send what waits."""
        self._paused = False
        if self.peer is not None and self.peer.open:
            self.peer.transport.resume_reading()
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        """Close the peer as well."""
        self.open = False
        self._outbox.clear()
        if self._body is not None:
            self._body.remove()
            self._body = None
        if self.peer is not None:
            self.peer.finish()
            self.peer = None  # else the buffers of both, some 100 KiB, wait for the garbage collector

    def say(self, line: bytes, body: Blob | None = None) -> None:
        """Send one line and its body, unless the connection is closed. What the reader has no time for waits."""
        if not self.open:
            return
        self._outbox.append(line)
        if body is not None and body.size:
            self._outbox.append(body)
        self._pump()

    def _pump(self) -> None:
        while self._outbox and self.open and not self._paused:
            part = self._outbox[0]
            if isinstance(part, bytes):
                self._outbox.popleft()
                self.transport.write(part)
                continue
            piece = part.piece(self._offset)
            self._offset += len(piece)
            if not piece or self._offset >= part.size:
                self._outbox.popleft()
                self._offset = 0
            if piece:
                self.transport.write(piece)

    def drop(self) -> None:
        """Close at once, without sending what is buffered."""
        self.open = False
        self.transport.abort()

    def finish(self) -> None:
        """Close after what is buffered has been sent."""
        self.open = False
        self.transport.close()


class Borrower(Connection):
    """An R session's connection that can be given a worker."""

    pid = 0
    """Process of the R session."""
    deadline = 0.0
    """Loop time at which a waiting session is refused."""
    asked = 0.0
    """Loop time at which it asked for a worker."""
    left = False
    """True once the session has closed its connection."""

    def refuse(self, text: str) -> None:
        """Answer with an error and close."""
        self.say(b"error " + text.encode() + b"\n")
        self.finish()
