"""The worker's R, and what the worker keeps for it of one session: large objects, files and packages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .channel import Channel
from .files import PREFIX, Files
from .library import Library
from .objects import Objects
from .r_process import PROGRAM, Children, RProcess


class SessionR:
    """One R process at a time. It is bound to a session by its first task, and no other session gets it."""

    def __init__(self, command: str, children: Children) -> None:
        self._command = shlex.split(command) if command else ["Rscript", str(PROGRAM)]
        self._children = children
        self.library = Library()
        self.objects = Objects()
        self._files = Files(self.objects.folder / "files")
        self._data_of = ""
        self.session = ""
        """Key of the session that R is bound to; empty for a fresh one."""
        self.process: RProcess | None = None
        self.link: Channel | None = None
        """The connection to the process."""

    @property
    def running(self) -> tuple[RProcess, Channel]:
        """The process and its connection, which are there from ``start`` to ``stop``."""
        assert self.process is not None
        assert self.link is not None
        return self.process, self.link

    def start(self) -> None:
        """Start a fresh R, in place of the one that is there.

        Raises:
            OSError: when R does not start.
        """
        self.stop()
        self.process = r = RProcess(self._command, self._children, self.objects.environ() | self.library.environ())
        self.link = Channel(r.socket, lambda: r.wait(0) is not None)
        self.session = ""

    def stop(self) -> None:
        """End R, if there is one."""
        r, self.process, self.link = self.process, None, None
        if r is not None:
            r.stop()

    def abandon(self) -> None:
        """End R without waiting, because this process ends next."""
        if self.process is not None:
            self.process.abandon()

    def bind(self, session: str, libraries: int) -> None:
        """Have an R for a task of this session. libraries: generation of its packages; another means a fresh R.

        Raises:
            OSError: when R does not start.
        """
        self._keep_data_of(session)
        outdated = self.library.outdated(session, libraries)
        if outdated or self.session not in ("", session) or self.process is None:
            self.start()
        self.session = session

    def refresh(self) -> None:
        """Have an R that is bound to no session.

        Raises:
            OSError: when R does not start.
        """
        if self.session or self.process is None:
            self.start()
        self._keep_data_of("")

    def release(self, busy: bool) -> None:
        """Have an R that is bound to no session: the plan is over, and so are its objects and files.

        A busy R stays bound to it, since its result is under way: the next session's task finds another key, and gets a
        fresh R.

        Raises:
            OSError: when R does not start.
        """
        self._keep_data_of("")
        if self.session and not busy:
            self.start()

    def receive(self, line: Channel, session: str, name: str, size: int) -> list[str]:
        """Take an object or a bundle of files from the broker, in place of those of another session.

        Returns the names of what is not there, or not any more. The next task that needs one brings it again.

        Raises:
            ChannelError: when the broker's connection has ended.
            ValueError: when the name or the bundle is none.
        """
        self._keep_data_of(session)
        if name.startswith(PREFIX):
            return self._files.receive(line, name, size)
        return [] if self.objects.receive(line, name, size) else [name]

    def use(self, needs: Sequence[str]) -> list[str]:
        """Prepare the objects and files that a task of the bound session needs; names of those that were removed."""
        removed = self.objects.use(needs)
        if not any(name.startswith(PREFIX) for name in needs):
            removed += self._files.clear()  # the session has left that folder, or sends no files any more
        return removed

    def _keep_data_of(self, session: str) -> None:
        """Remove objects and files of any other session."""
        if session != self._data_of:
            self.objects.clear()
            self._files.clear()
            self._data_of = session
