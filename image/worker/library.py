"""Packages of the session's own libraries that its R on this worker has looked for."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, cast

from .channel import Channel, ChannelError

_READ_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.]*")


class Library:
    """A library of R. It lasts as long as the plan that the worker works for, and as none of its packages changes."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="future-library-"))
        self._of: tuple[str, int] = ("", 0)
        self._clean = True

    def environ(self) -> dict[str, str]:
        """Environment variables for worker.R."""
        return {"FUTURE_KUBERNETES_LIBRARY": str(self.folder)}

    def outdated(self, session: str, generation: int) -> bool:
        """True if packages of another plan or generation were loaded: they are removed, and R must be a fresh one."""
        if self._of == (session, generation):
            return False
        loaded = self._of[0] == session  # a worker that turns to another plan gets a fresh R anyway
        self._of = session, generation
        if not self._clean:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(exist_ok=True)
            self._clean = True
        return loaded

    def receive(self, line: Channel, folder: str, size: int) -> bytes:
        """Take a package or the list of them; what R is to know: the list, or why a package is not there.

        Args:
            line: the broker's connection.
            folder: the package's folder in the session's library; empty for the list.
            size: of what follows on the connection.

        Raises:
            ChannelError: when the broker's connection has ended.
            ValueError: when the name is none.
        """
        body, name = _Body(line, size), Path(folder).name
        if not folder:
            return b"".join(iter(lambda: body.read(_READ_BYTES), b""))
        if not size:
            return b""
        if not _NAME.fullmatch(name):
            raise ValueError(f"a package has the name {name!r}")
        self._clean = False
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            with tarfile.open(fileobj=cast(IO[bytes], body), mode="r|", bufsize=_READ_BYTES) as archive:
                archive.extractall(new, filter="data")
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (new / name).rename(self.folder / name)
        except ChannelError:
            raise
        except (OSError, tarfile.TarError) as error:
            return f"the worker's pod could not keep it: {error}".encode()
        finally:
            body.drop()
            shutil.rmtree(new, ignore_errors=True)
        return b""


class _Body:
    """Bytes that follow on the broker's connection, as a file to read once."""

    def __init__(self, line: Channel, size: int) -> None:
        self._line = line
        self._left = size

    def read(self, size: int) -> bytes:
        if not self._left:
            return b""
        piece = bytes(self._line.take(min(size, self._left)))
        self._left -= len(piece)
        return piece

    def drop(self) -> None:
        """Read what is left of it, so that the next line is found."""
        with contextlib.suppress(ChannelError):  # the agent meets the end of the connection by itself
            while self._left:
                self.read(self._left)
