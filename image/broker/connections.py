"""Connections of the broker: lines first and, once joined to a peer, bytes that pass through unread."""

from __future__ import annotations

import asyncio
from typing import cast

from ..common import wire

_BUFFER_BYTES = 1024 * 1024


class Connection(asyncio.Protocol):
    """One connection that speaks lines until it has a ``peer``, and passes bytes to the peer from then on."""

    peer: Connection | None = None
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.open = False
        self._line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up; a worker has passed the TLS handshake by now."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self.open = True
        self.socket = transport.get_extra_info("socket")
        wire.watch_peer(self.socket)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the peer, or split them into lines while there is none."""
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self._line += data
        while self.peer is None and b"\n" in self._line and self.open:
            line, _, self._line = self._line.partition(b"\n")
            self.line_received(line)
        if self.peer is not None and self._line:
            self.peer.transport.write(self._line)
            self._line = b""
        elif len(self._line) > wire.MAX_LINE:
            self.drop()

    def line_received(self, line: bytes) -> None:
        """Handle one line, without its newline."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Stop reading from the peer while this connection's reader is slow."""
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the peer again."""
        if self.peer is not None and self.peer.open:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Close the peer as well."""
        self.open = False
        if self.peer is not None:
            self.peer.finish()
            self.peer = None  # else the buffers of both, some 100 KiB, wait for the garbage collector

    def say(self, line: bytes) -> None:
        """Send one line, unless the connection is closed."""
        if self.open:
            self.transport.write(line)

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
    left = False
    """True once the session has closed its connection."""

    def refuse(self, text: str) -> None:
        """Answer with an error and close."""
        self.say(b"error " + text.encode() + b"\n")
        self.finish()
