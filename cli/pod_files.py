"""Copies a project's files: lists them, packs them into a tar stream, and unpacks such a stream with checks.

The client and the agent in the pod both use this module. It uses only the standard library, since its source is sent to
the pod with the agent's (cli/client.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

FOLDERS_LEFT_OUT = (".git", ".Rproj.user", "renv/library", "renv/staging")
"""Never copied: the history, the IDE's own files, and packages that were built for the other machine."""

BLOCK = 1 << 18


class AgentError(Exception):
    """An error that the user can fix; its text is the reply to the request."""


def left_out(path: str) -> bool:
    """True for a path that is never copied; `.git` in any folder and any case, as git runs hooks that are in it."""
    return path in FOLDERS_LEFT_OUT or ".git" in path.lower().split("/")


def files_below(
    folder: Path, ignored: Callable[[str, bool], bool], *, into_linked_folders: bool
) -> tuple[list[str], list[str], list[str]]:
    """Paths below `folder`: its files, its folders, and the others (sockets, links to nowhere).

    ignored: called with a path, and with True for a folder.
    """
    files: list[str] = []
    folders: list[str] = []
    others: list[str] = []
    visited: set[tuple[int, int]] = set()

    def stop(error: OSError) -> None:
        raise error

    for at, below, names in os.walk(folder, onerror=stop, followlinks=into_linked_folders):
        found = os.stat(at)
        if (found.st_dev, found.st_ino) in visited:  # a link to a folder above it
            below.clear()
            continue
        visited.add((found.st_dev, found.st_ino))
        base = "" if Path(at) == folder else f"{Path(at).relative_to(folder).as_posix()}/"
        below[:] = sorted(name for name in below if not ignored(base + name, True))
        folders += [base + name for name in below]
        for name in sorted(names):
            if ignored(base + name, False):
                continue
            try:
                regular = stat.S_ISREG(os.stat(f"{at}/{name}").st_mode)
            except FileNotFoundError:
                regular = False
            (files if regular else others).append(base + name)
    return files, folders, others


class Hashed:
    """A file whose SHA-256 is computed as it is read."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As for any file."""
        data = self._file.read(size)
        self.sum.update(data)
        self._progress(len(data))
        return data


def pack(
    folder: Path,
    files: Iterable[str],
    folders: Iterable[str],
    out: Any,
    progress: Callable[[int], None] = lambda size: None,
) -> dict[str, str]:
    """Writes a tar stream to `out`; returns the SHA-256 of every file in it.

    progress: called with the number of bytes after each read.
    """
    sums = {}
    with tarfile.open(fileobj=out, mode="w|", bufsize=BLOCK, format=tarfile.PAX_FORMAT) as tar:
        for path in folders:
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path in files:
            with (folder / path).open("rb") as file:
                found = os.fstat(file.fileno())
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = found.st_size, stat.S_IMODE(found.st_mode) & 0o777, found.st_mtime
                hashed = Hashed(file, progress)
                try:
                    tar.addfile(entry, hashed)
                except OSError as error:
                    if str(error) != "unexpected end of data":  # tarfile's message for a file that became shorter
                        raise
                    raise AgentError(f"{path} became shorter while it was copied") from None
                sums[path] = hashed.sum.hexdigest()
    return sums


def unpack(source: Any, folder: Path, progress: Callable[[int], None] = lambda size: None) -> dict[str, str]:
    """Unpacks a tar stream into a new `folder`; returns the SHA-256 of every file in it.

    Only files and folders, and none outside of `folder`: the sender is not trusted. (Python 3.11.0 to 3.11.3 lack
    tarfile's own filter for that.)
    """
    folder.mkdir(parents=True)
    sums = {}
    with tarfile.open(fileobj=source, mode="r|", bufsize=BLOCK) as tar:
        for entry in tar:
            parts = entry.name.split("/")
            if entry.name.startswith("/") or ".." in parts or not (entry.isreg() or entry.isdir()):
                raise AgentError(f"{entry.name!r} is neither a regular file nor a folder inside the project")
            if left_out(entry.name):
                raise AgentError(f"{entry.name!r} is never copied: git would run what is in it")
            target = folder / entry.name
            if entry.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(entry)
            assert content is not None  # it is a regular file
            hashed = Hashed(content, progress)
            with target.open("wb") as out:
                shutil.copyfileobj(hashed, out, BLOCK)
            target.chmod(entry.mode & 0o777 | 0o600)
            os.utime(target, (entry.mtime, entry.mtime))
            sums[entry.name] = hashed.sum.hexdigest()
    return sums
