"""A proxy as an Ingress is: TLS ends here, only one path leads on, and no connection lasts for ever."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_HOP = re.compile(rb"^(?:connection|keep-alive|x-forwarded-[a-z]+):.*\r\n", re.I | re.M)


class Ingress:
    """A proxy on a port of its own, with a certificate of its own."""

    def __init__(self, folder: Path, upstream: int, path: str) -> None:
        self._upstream, self._path = upstream, path
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        key, certificate = folder / "ingress.key", folder / "ingress.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._pass, "127.0.0.1", 0, ssl=context))
        self.address = f"https://localhost:{self._server.sockets[0].getsockname()[1]}"
        self.refused: list[str] = []
        """Paths that were asked for and lead nowhere: links that forgot where the page is."""
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def cut(self) -> None:
        """End every connection, as an Ingress does after its time-out or when it restarts."""

        def abort() -> None:
            for writer in self._open:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def end(self) -> None:
        """Stop."""
        self.cut()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, with the headers of a proxy; a websocket for as long as it lasts."""
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            path = line.split(b" ")[1].decode()
            if not path.startswith(self._path):
                self.refused.append(path)
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                kept = b"Upgrade" if re.search(rb"^upgrade:", rest, re.I | re.M) else b"close"
                host = re.search(rb"^host: *(\S+)", rest, re.I | re.M)
                added = b"Connection: %s\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n" % kept
                added += b"X-Forwarded-Host: %s\r\n" % (host[1] if host else b"")
                back, forth = await asyncio.open_connection("127.0.0.1", self._upstream)
                self._open.add(forth)
                forth.write(line + b"\r\n" + added + _HOP.sub(b"", rest))
                up = asyncio.create_task(_copy(reader, forth))
                await _copy(back, writer)
                up.cancel()
                self._open.discard(forth)
                forth.close()
        self._open.discard(writer)
        writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()


@contextlib.contextmanager
def ingress(folder: Path, upstream: int, path: str) -> Iterator[Ingress]:
    """A proxy before this port, until the block ends."""
    made = Ingress(folder, upstream, path)
    try:
        yield made
    finally:
        made.end()
