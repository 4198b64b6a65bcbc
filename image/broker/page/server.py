"""Serves the page's files and its stream of events on a Unix socket.

    GET /           the page; also its style sheet and scripts
    GET /alive      when this broker started: a page whose stream ended asks whether to log in or to wait
    GET /events     server-sent events: first ``all``, the whole state, then ``new`` at each tick, what has changed

The socket is in the pod's own folder and only its user can open it. The IDE's server passes requests on after it has
checked the login (``image/etc/future_kubernetes_page.py``), so no port of this pod shows the page to other pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ..background import Background
from ..log import log
from . import chart_library
from .feed import SAMPLE_SECONDS, Feed

SOCKET = "page.sock"
_REQUEST_SECONDS = 5.0
_TICK_SECONDS = 0.75
"""Below a second by more than what drawing takes: a future's bar ends less than a second after the future."""
_STILL_TICKS = 4
"""Where no task and no worker moved, the rest, such as the memory of workers, is sent every so many ticks."""
_PAGES = 100
_BACKLOG_BYTES = 4 << 20
"""A page that reads so slowly is dropped; it connects again and gets the state anew."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class PageServer:
    """Answers the requests of open pages, and sends them what has changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, feed: Feed, background: Background) -> None:
        self._loop = loop
        self._feed = feed
        self._background = background
        self._pages: set[asyncio.StreamWriter] = set()
        self._telling = False
        folder = Path(__file__).parent / "static"
        self._files = {
            f"/{path.name}": (_TYPES[path.suffix], path.read_bytes())
            for path in folder.iterdir()
            if path.suffix in _TYPES
        }
        self._files["/"] = self._files["/index.html"]
        try:
            self._files[f"/{chart_library.NAME}"] = (_TYPES[".js"], chart_library.read())
        except OSError as error:
            log(f"the live page has no charts: {error}")

    async def listen(self, folder: Path) -> None:
        """Listen in this folder. Without the page the broker goes on, so a failure is only logged."""
        path = folder / SOCKET
        before = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._answer, path)
        except OSError as error:
            log(f"no live page: {path}: {error}")
            return
        finally:
            os.umask(before)
        self._background.start(self._sample())

    async def _sample(self) -> None:
        while True:
            self._feed.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            method, _, rest = head.decode("latin-1").partition(" ")
            path = rest.split(" ")[0].partition("?")[0]
            if method != "GET":
                self._send(writer, "405 Method Not Allowed", "text/plain", b"only GET\n")
            elif path == "/events":
                await self._stream(reader, writer)
            elif path == "/alive":
                started = json.dumps({"started": self._feed.started}).encode()
                self._send(writer, "200 OK", "application/json", started)
            elif path in self._files:
                self._send(writer, "200 OK", *self._files[path])
            else:
                self._send(writer, "404 Not Found", "text/plain", b"not found\n")
            await writer.drain()
        writer.close()

    @staticmethod
    def _send(writer: asyncio.StreamWriter, status: str, kind: str, body: bytes) -> None:
        head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    # Events.

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the state and its changes until the page closes."""
        if len(self._pages) >= _PAGES:
            self._send(writer, "503 Service Unavailable", "text/plain", f"{_PAGES} pages are open\n".encode())
            return
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
        self._tell()  # to the other pages, so that the next changes continue what this one starts with
        writer.write(_event("all", self._feed.everything()))
        self._pages.add(writer)
        if not self._telling:
            self._telling = True
            self._background.start(self._tell_at_each_tick())
        try:
            while await reader.read(4096):
                pass
        finally:
            self._pages.discard(writer)

    async def _tell_at_each_tick(self) -> None:
        """Send all pages the changes, as long as one is open: at each tick where something moves, else more seldom."""
        asking: asyncio.Task[None] | None = None
        still, said = 0, self._feed.moved()
        while self._pages:
            if asking is None or asking.done():  # Kubernetes may take longer than a second
                asking = self._background.start(self._feed.ask_kubernetes())
            await asyncio.sleep(_TICK_SECONDS)
            moved = self._feed.moved()
            still += 1
            if moved != said or still == _STILL_TICKS:
                self._tell()
                still, said = 0, moved
        self._telling = False

    def _tell(self) -> None:
        event = _event("new", self._feed.changes())
        for writer in list(self._pages):
            if writer.transport.get_write_buffer_size() > _BACKLOG_BYTES:
                self._pages.discard(writer)
                writer.transport.abort()
            else:
                writer.write(event)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
