"""Large objects of a plan on a worker: files named by their content, which its R reads."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from ..common import cgroup
from .channel import Channel

_SHARE_OF_DISK = 0.25
_MEMORY_BYTES = 1 << 30
"""Limit where the container has none; else a quarter of that."""


class Objects:
    """The files, within a bound. They last as long as the plan that the worker works for."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="future-objects-"))
        self._max_bytes = int(shutil.disk_usage(self.folder).free * _SHARE_OF_DISK)
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def environ(self) -> dict[str, str]:
        """Environment variables for worker.R: where the files are, and how many bytes of them it may hold in memory."""
        limit = cgroup.memory_limit_mib()
        max_bytes = (limit << 20) // 4 if limit else _MEMORY_BYTES
        return {"FUTURE_KUBERNETES_OBJECTS": str(self.folder), "FUTURE_KUBERNETES_OBJECT_BYTES": str(max_bytes)}

    def receive(self, line: Channel, name: str, size: int) -> bool:
        """Take an object from the broker. False if there was no room: it is missing when R looks for it.

        Raises:
            ChannelError: when the broker's connection has ended.
            ValueError: when the name is none.
        """
        if not name.isalnum():
            raise ValueError(f"an object has the name {name!r}")
        path = self.folder / name
        left, good = size, True
        # Without a buffer, whose last bytes would meet a full disk only when the file is closed.
        with path.open("wb", buffering=0) as file:
            while left:
                piece = line.take(left)
                left -= len(piece)
                if good:
                    try:
                        good = file.write(piece) == len(piece)
                    except OSError:
                        good = False
        if good:
            self._sizes[name] = size
        else:
            path.unlink()
        return good

    def use(self, names: Iterable[str]) -> list[str]:
        """Note that a task needs these; the names of others that were removed, least recently used first."""
        names = set(names)
        for name in names & self._sizes.keys():
            self._sizes.move_to_end(name)
        removed = []
        while sum(self._sizes.values()) > self._max_bytes and (free := [n for n in self._sizes if n not in names]):
            self.forget(free[0])
            removed.append(free[0])
        return removed

    def forget(self, name: str) -> None:
        """Remove one."""
        self._sizes.pop(name, None)
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    def clear(self) -> None:
        """Remove all."""
        for name in list(self._sizes):
            self.forget(name)
