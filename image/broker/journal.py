"""Results that wait for their sessions, on disk: a broker that was killed gives them to its successor.

The broker is a child of the scheduler container's first process, which starts it again; the pod's files and its R
sessions live on. A plan has one file of lines, some followed by bytes:

    plan KEY PID                         the first line
    WORD NUMBER SIZE      + SIZE bytes   how a task ended
    WORD NUMBER SIZE FILE                the same, its bytes in a file of their own
    got NUMBER ...                       the session has these

It is emptied whenever no result waits, and written anew when most of it is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..common.blob import Blob
from .log import log

_COMPACT_BYTES = 64 << 20


class Journal:
    """The results of one plan that wait for its session."""

    def __init__(self, folder: Path, key: str, pid: int) -> None:
        self._path = folder / f"{key}.journal"
        self._head = f"plan {key} {pid}\n".encode()
        self._waiting: dict[int, tuple[str, Blob]] = {}
        self._file: IO[bytes] | None = None
        self._size = 0

    def end(self, number: int, word: str, body: Blob) -> None:
        """Note how a task ended. A disk that is full costs no more than this safety."""
        self._waiting[number] = word, body
        self._write(_entry(number, word, body))

    def got(self, numbers: list[int]) -> None:
        """Note that the session has these results."""
        found = [number for number in numbers if self._waiting.pop(number, None) is not None]
        if not found:
            return
        if not self._waiting:
            self._begin()
            return
        self._write(b"got %s\n" % b" ".join(b"%d" % number for number in found))
        if self._size > _COMPACT_BYTES and self._size > 2 * sum(body.size for _, body in self._waiting.values()):
            self._begin()
            for number, (word, body) in self._waiting.items():
                self._write(_entry(number, word, body))

    def _begin(self) -> None:
        """Write an empty journal."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.seek(0)
                self._file.truncate()
                self._size = 0
                self._write(self._head)

    def _write(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._file = self._path.open("wb", buffering=0)
                data = self._head + data
            self._file.write(data)
            self._size += len(data)
        except OSError as error:
            log(f"a result is not safe from a restart of this process: {error}")

    def remove(self) -> None:
        """Remove it with the files of its results."""
        for _, body in self._waiting.values():
            body.remove()
        self._waiting.clear()
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


def _entry(number: int, word: str, body: Blob) -> bytes:
    if body.path is not None:
        return f"{word} {number} {body.size} {body.path.name}\n".encode()
    return f"{word} {number} {body.size}\n".encode() + b"".join(body.pieces())


def left_behind(folder: Path) -> Iterator[tuple[str, int, dict[int, tuple[str, Blob]]]]:
    """Key, process and waiting results of each plan that a broker before this one has left, and remove its journal.

    The files of results that no journal names are removed.
    """
    named = set()
    for path in folder.glob("*.journal"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            key, pid, waiting = _read(path)
            named |= {body.path for _, body in waiting.values() if body.path is not None}
            yield key, pid, waiting
        path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path not in named and path.suffix == ".result":
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[str, int, dict[int, tuple[str, Blob]]]:
    waiting: dict[int, tuple[str, Blob]] = {}
    with path.open("rb") as file:
        _, key, pid = file.readline().decode().split()
        while (line := file.readline()).endswith(b"\n"):
            word, *words = line.decode().split()
            if word == "got":
                for collected in map(int, words):
                    waiting.pop(collected, None)
                continue
            number, size = int(words[0]), int(words[1])
            if len(words) == 3:
                try:
                    body = Blob.at(path.parent / words[2], keep=True)
                except FileNotFoundError:  # collected since, as a later line says
                    continue
            else:
                data = file.read(size)
                if len(data) < size:
                    break  # written in part
                body = Blob(size, path.parent)
                body.write(data)
            waiting[number] = word, body
    return key, int(pid), waiting
