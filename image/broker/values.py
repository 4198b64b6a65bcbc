"""Large values of a plan's results, by the hash of their content: each is here once, for all results that have it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..common.blob import Blob

_SHARE_OF_DISK = 0.125
_MAX_BYTES = 1 << 30


def _room() -> int:
    """Bytes of values that a plan may keep for results to come: an eighth of the free disk, 1 GiB at most."""
    given = os.environ.get("FUTURE_KUBERNETES_VALUE_BYTES")
    if given:
        return int(given)
    return min(_MAX_BYTES, int(shutil.disk_usage(tempfile.gettempdir()).free * _SHARE_OF_DISK))


@dataclass
class _Held:
    body: Blob
    results: int = 0
    """Number of results that wait for their session and have it."""


class Values:
    """The values that results need, and within a bound those that no result needs any more: the next one may."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self.when_dropped: Callable[[str], None] = lambda _name: None

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __getitem__(self, name: str) -> Blob:
        return self._held[name].body

    def put(self, name: str, body: Blob) -> None:
        """Keep a value; if it is here already, the copy is removed."""
        if name in self._held:
            body.remove()
        else:
            self._held[name] = _Held(body)

    def hold(self, names: Iterable[str]) -> None:
        """Note that one more result has these values."""
        for name in names:
            self._held[name].results += 1
            self._held.move_to_end(name)

    def release(self, names: Iterable[str]) -> None:
        """Note that a result that has these values is needed no more."""
        for name in names:
            self._held[name].results -= 1
        free = [name for name, held in self._held.items() if not held.results]
        if free:
            room = _room()
            size = sum(self._held[name].body.size for name in free)
            for name in free:
                if size <= room:
                    break
                size -= self._held[name].body.size
                self._drop(name)

    def clear(self) -> None:
        """Remove all values that no result needs."""
        for name in [name for name, held in self._held.items() if not held.results]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._held.pop(name).body.remove()
        self.when_dropped(name)
