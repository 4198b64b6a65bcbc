"""Packages of a session's own libraries, for the workers that need them.

Broker and session share the scheduler pod's disk. So a session only says which libraries it has beyond the image's. A
worker whose R looks for one of their packages gets that package from here, while its future runs. A package that no R
looks for does not travel, and a worker can read nothing but these packages. A session on another machine lists its
packages, and is asked for one when a worker looks for it. A package of another platform or version of R is installed
here instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..common import wire
from ..common.blob import Blob
from .background import Background
from .builds import BuildError, Builds
from .log import log

if TYPE_CHECKING:
    from .plans import Plan
    from .reports import Reports
    from .workers import Worker

_PACKED_BYTES = 1 << 30
"""Packed packages that are kept for the next worker; the least recently used ones go first."""

_WAIT_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """Answer of a session on another machine about a package."""

    body: Blob | None = None
    reason: str = ""
    """Reason for which there is none."""
    install: str = ""
    """Name of the package to install here in its place."""


Identity = tuple[int, int, int]
"""Inode, time and size of what changes with each installation of a package."""


class Libraries:
    """The libraries of one plan's session."""

    def __init__(self) -> None:
        self.generation = 0
        """Changes when a worker that has loaded packages may hold one that is another now."""
        self.packages: dict[str, Identity] | None = None
        """Folders of the packages, in the order in which R looks for them; None until the session has said."""
        self.asked: dict[str, asyncio.Future[Answer]] = {}
        """Packages that a session on another machine was asked for, by their folders."""

    def said(self, image: list[Path], own: list[Path]) -> None:
        """Take note of the session's own libraries, and of the image's."""
        self._have({str(folder): identity for library in own for folder, identity in _packages_of(library)}, image)

    def listed(self, packages: dict[str, Identity]) -> None:
        """Take note of the packages of a session on another machine."""
        self._have(packages, [])

    def _have(self, found: dict[str, Identity], image: list[Path]) -> None:
        before = self.packages or {}  # a session whose libraries are empty says nothing
        changed = any(found.get(folder) != identity for folder, identity in before.items())
        new = found.keys() - before.keys()
        if changed or any((library / Path(folder).name).exists() for folder in new for library in image):
            self.generation += 1
            self.asked = {folder: future for folder, future in self.asked.items() if not future.done()}
        self.packages = found

    def answered(self, folder: str, answer: Answer) -> None:
        """A session on another machine has sent a package, or says what to do instead."""
        future = self.asked.get(folder)
        if future is not None and not future.done():
            future.set_result(answer)


def _identity(folder: Path) -> Identity:
    """Raises OSError when there is no package."""
    status = (folder / "Meta" / "package.rds").stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _packages_of(library: Path) -> Iterator[tuple[Path, Identity]]:
    with contextlib.suppress(OSError):
        for folder in sorted(library.iterdir()):
            with contextlib.suppress(OSError):
                yield folder, _identity(folder)


class Packages:
    """Answers workers whose R looks for a package."""

    def __init__(self, loop: asyncio.AbstractEventLoop, background: Background, reports: Reports) -> None:
        self._loop = loop
        self._background = background
        self._reports = reports
        self._builds = Builds()
        self._packed: OrderedDict[tuple[str, Identity], asyncio.Future[Blob]] = OrderedDict()

    def wanted(self, worker: Worker, lease: str, name: str) -> None:
        """Send the names of the packages that there are, or the package of this name, to the worker of a task."""
        self._background.start(self._answer(worker, lease, name))

    async def _answer(self, worker: Worker, lease: str, name: str) -> None:
        task = worker.task
        if task is None or task.lease != lease:
            return
        libraries, body, reason = task.plan.libraries, None, ""
        # After a restart of the broker they are known once the session has come back.
        while libraries.packages is None and worker.task is task:
            await asyncio.sleep(_WAIT_SECONDS)
        packages = libraries.packages or {}
        if not name:
            body = Blob.of("\n".join(packages).encode())
        elif name in packages and task.plan.remote:
            body, reason = await self._ask(task.plan, name)
        elif name in packages:
            body, reason = await self._read(name, packages[name])
        else:
            reason = "it is in no library of the session any more"
        if worker.task is task and task.lease == lease:
            size = body.size if body is not None else 0
            worker.say(wire.encode(op="have", id=lease, name=name, reason=reason, size=size), body)

    async def _ask(self, plan: Plan, folder: str) -> tuple[Blob | None, str]:
        """The package from a session on another machine, which answers when it next waits for futures."""
        asked = plan.libraries.asked
        if folder not in asked:
            asked[folder] = self._loop.create_future()
            self._reports.want(plan, folder)
        answer = await asyncio.shield(asked[folder])
        body, reason = answer.body, answer.reason
        if answer.install:
            try:
                built = await self._builds.install(answer.install)
            except BuildError as error:
                reason = str(error)
            else:
                body, reason = await self._read(str(built), _identity(built))
        if body is None:
            asked.pop(folder, None)  # it may be there the next time
        return body, reason

    async def _read(self, folder: str, identity: Identity) -> tuple[Blob | None, str]:
        """A package of this pod's disk, or why it cannot be had."""
        try:
            return await self._pack(folder, identity), ""
        except (OSError, tarfile.TarError) as error:
            log(f"{folder} could not be packed: {error}")
            return None, f"the scheduler's pod could not read it: {error}"

    async def _pack(self, folder: str, identity: Identity) -> Blob:
        """The packed package; workers that ask at the same time share the work.

        Raises:
            OSError: when it cannot be read, or the disk is full.
        """
        key = folder, identity
        if key not in self._packed:
            self._packed[key] = asyncio.ensure_future(asyncio.to_thread(pack, Path(folder)))
        self._packed.move_to_end(key)
        try:
            blob = await asyncio.shield(self._packed[key])
        except Exception:
            self._packed.pop(key, None)
            raise
        while self._size() > _PACKED_BYTES and len(self._packed) > 1:
            self._packed.popitem(last=False)
        return blob

    def _size(self) -> int:
        done = [future for future in self._packed.values() if future.done() and not future.exception()]
        return sum(future.result().size for future in done)


def pack(folder: Path) -> Blob:
    """A package's folder, or what it links to as in renv's libraries, as a tar archive; without links that leave it.

    Raises:
        OSError: when it cannot be read, or the disk is full.
    """
    with tempfile.NamedTemporaryFile(prefix="future-kubernetes-", delete=False) as file:
        path = Path(file.name)
        try:
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(folder.resolve(), arcname=folder.name, filter=_stays_inside)
        except BaseException:
            path.unlink()
            raise
    return Blob.at(path)


def _stays_inside(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if member.issym():
        return None if member.linkname.startswith("/") or ".." in member.linkname.split("/") else member
    return member if member.isreg() or member.isdir() or member.islnk() else None
