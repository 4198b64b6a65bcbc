"""Passes R's stream between the session's connection and the worker's R, unread."""

from __future__ import annotations

import select
import socket
import ssl
import time

from ..common import wire


def readable(sock: socket.socket, seconds: float) -> bool:
    """True if ``sock`` has something to read, or has ended, within ``seconds``."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def relay(session: ssl.SSLSocket, r: socket.socket) -> str:
    """Pass bytes both ways until one side ends; returns ``"session"`` or ``"r"``, whichever ended.

    While one side does not read, what the other sends stays in the kernel's buffers.
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
    """Number of bytes of ``data`` that the socket took now."""
    if not data:
        return 0
    try:
        return sock.send(data)
    except _NOT_NOW:
        return 0


def _take(sock: socket.socket, buffer: bytearray) -> memoryview:
    """Bytes that can be read now, up to the buffer's size; empty when there are none.

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
