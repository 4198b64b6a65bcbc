"""The task at hand on a worker: how it gets to R, and what R says of it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..common.blob import Blob
from .channel import Channel

_FILE_BYTES = 16 << 20
"""A larger task goes to R in a file, so that R does not need twice its size in memory."""


class Work:
    """The task at hand, until the broker has acknowledged its result.

    Not a dataclass: to import those takes an agent a tenth of its start.
    """

    def __init__(self, lease: str, session: str, pid: int) -> None:
        self.id, self.session, self.pid = lease, session, pid
        self.status = ""
        self.result: Blob | None = None
        """Result that R has sent; None while R runs."""
        self.values: list[tuple[str, Blob]] = []
        """Large values of the result in their order, with the hashes of their content."""
        self.sent = False
        self.looks_for: str | None = None
        """The package that its R waits for; "" for the list of them."""

    def give(self, line: Channel, link: Channel, size: int, folder: str) -> None:
        """Pass the task's bytes on from the broker to R as they come, or in a file; if that fails, read and drop them.

        If R has ended meanwhile its end is reported as that of a task.

        Raises:
            ChannelError: when the broker's connection has ended.
        """
        path = Path(folder, "task") if size > _FILE_BYTES else None
        failed, left = "", size
        with path.open("wb", buffering=0) if path is not None else contextlib.nullcontext() as file:
            if file is None:
                failed = _try(link.send, b"task %d\n" % size)
            while left:
                piece = line.take(left)
                left -= len(piece)
                failed = failed or _try(link.send if file is None else partial(_write, file), piece)
        if path is not None and failed:
            path.unlink()
            self.status = "unread"
            self.result = Blob.of(f"the worker's pod has no room for the task: {failed}".encode())
        elif path is not None:
            _try(link.send, f"file {size} {path}\n".encode())

    def ended(self, word: str, body: Blob) -> None:
        """Keep how it ended; only a result has values."""
        self.status, self.result = word, body
        if word != "done":
            self.values.clear()


def said(link: Channel, line: bytes) -> tuple[str, Blob | None]:
    """Word that R says in a line, as worker.R has them, and its body.

    The body is None if there was no room for it.
    """
    word, size, *path = line.decode().split(" ", 2)
    if path:
        return word.removesuffix("-file"), Blob.at(Path(path[0]))
    return word, link.body(int(size))


def _write(file: IO[bytes], piece: memoryview) -> None:
    """Write all of it. A buffer would hide a full disk until the file is closed."""
    if file.write(piece) != len(piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _try(action: Callable[[Any], object], data: bytes | memoryview) -> str:
    """Do it; the reason why that failed, else empty."""
    try:
        action(data)
    except OSError as error:
        return str(error)
    return ""
