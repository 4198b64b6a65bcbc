"""Results that wait for their sessions, on disk: a broker that was killed gives them to its successor.

The broker is a child of the scheduler container's first process, which starts it again; the pod's files and its R
sessions live on. A plan has one file of lines, some followed by bytes:

    plan KEY PID                         the first line
    WORD NUMBER SIZE      + SIZE bytes   how a task ended
    WORD NUMBER SIZE FILE                the same, its bytes in a file of their own
    values NUMBER HASH FILE ...          files of its large values, in the line before; results may have the same ones
    got NUMBER ...                       the session has these

It is emptied whenever no result waits, and written anew when most of it is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..common.blob import Blob
from .log import log

_COMPACT_BYTES = 64 << 20


@dataclass
class Ended:
    """End of a task, kept until its session has that."""

    word: str
    body: Blob
    values: list[tuple[str, Blob]] = field(default_factory=list)
    """Large values of its result with their hashes, in their order; other results may have the same ones."""

    def remove(self) -> None:
        """Remove the files."""
        for blob in (self.body, *(value for _, value in self.values)):
            blob.remove()

    def entry(self, number: int) -> bytes:
        """Lines of the journal."""
        head = f"{self.word} {number} {self.body.size}"
        if self.values:
            files = "".join(f" {name} {blob.path.name}" for name, blob in self.values if blob.path is not None)
            head = f"values {number}{files}\n{head}"
        if self.body.path is not None:
            return f"{head} {self.body.path.name}\n".encode()
        return f"{head}\n".encode() + b"".join(self.body.pieces())


class Journal:
    """The results of one plan that wait for its session."""

    def __init__(self, folder: Path, key: str, pid: int) -> None:
        self._path = folder / f"{key}.journal"
        self._head = f"plan {key} {pid}\n".encode()
        self._waiting: dict[int, Ended] = {}
        self._file: IO[bytes] | None = None
        self._size = 0

    def end(self, number: int, word: str, body: Blob, values: list[tuple[str, Blob]]) -> None:
        """Note how a task ended. A disk that is full costs no more than this safety."""
        ended = self._waiting[number] = Ended(word, body, values)
        self._write(ended.entry(number))

    def got(self, numbers: list[int]) -> None:
        """Note that the session has these results."""
        found = [number for number in numbers if self._waiting.pop(number, None) is not None]
        if not found:
            return
        if not self._waiting:
            self._begin()
            return
        self._write(b"got %s\n" % b" ".join(b"%d" % number for number in found))
        if self._size > _COMPACT_BYTES and self._size > 2 * sum(ended.body.size for ended in self._waiting.values()):
            self._begin()
            for number, ended in self._waiting.items():
                self._write(ended.entry(number))

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
        for ended in self._waiting.values():
            ended.remove()
        self._waiting.clear()
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


def left_behind(folder: Path) -> Iterator[tuple[str, int, dict[int, Ended]]]:
    """Key, process and waiting results of each plan that a broker before this one has left, and remove its journal.

    The files of results that no journal names are removed.
    """
    named = set()
    for path in folder.glob("*.journal"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            key, pid, waiting = _read(path)
            blobs = [blob for ended in waiting.values() for blob in (ended.body, *(value for _, value in ended.values))]
            named |= {blob.path for blob in blobs if blob.path is not None}
            yield key, pid, waiting
        path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path not in named and path.suffix == ".result":
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[str, int, dict[int, Ended]]:
    waiting: dict[int, Ended] = {}
    values: dict[int, list[str]] = {}
    body: Blob | None
    files: dict[str, Blob | None] = {}
    with path.open("rb") as file:
        _, key, pid = file.readline().decode().split()
        while (line := file.readline()).endswith(b"\n"):
            word, *words = line.decode().split()
            if word == "got":
                for collected in map(int, words):
                    waiting.pop(collected, None)
                continue
            if word == "values":
                values[int(words[0])] = words[1:]
                for name in words[2::2]:
                    if name not in files:
                        files[name] = _at(path.parent / name)
                continue
            number, size = int(words[0]), int(words[1])
            if len(words) == 3:
                body = _at(path.parent / words[2])
            else:
                data = file.read(size)
                if len(data) < size:
                    break  # written in part
                body = Blob(size, path.parent)
                body.write(data)
            of = values.get(number, [])
            found = [(name, blob) for name, file_ in zip(of[::2], of[1::2], strict=True) if (blob := files[file_])]
            if body is not None and 2 * len(found) == len(of):
                waiting[number] = Ended(word, body, found)
    return key, int(pid), waiting


def _at(path: Path) -> Blob | None:
    """The blob of a file; None if its results were collected, as a later line of the journal says."""
    try:
        return Blob.at(path, keep=True)
    except FileNotFoundError:
        return None
