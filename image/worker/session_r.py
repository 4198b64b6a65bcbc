"""The worker's R, and what the worker keeps for it of one session: large objects, and packages."""

from __future__ import annotations

import shlex

from .channel import Channel
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
        self._objects_of = ""
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

    def release(self, busy: bool) -> None:
        """Have an R that is bound to no session: the plan is over, and so are its objects.

        A busy R stays bound to it, since its result is under way: the next session's task finds another key, and gets a
        fresh R.

        Raises:
            OSError: when R does not start.
        """
        self.objects.clear()
        if self.session and not busy:
            self.start()

    def receive_object(self, line: Channel, session: str, name: str, size: int) -> bool:
        """Take an object of a session from the broker, in place of those of another one. False if there was no room.

        Raises:
            ChannelError: when the broker's connection has ended.
            ValueError: when the name is none.
        """
        if session != self._objects_of:
            self.objects.clear()
            self._objects_of = session
        return self.objects.receive(line, name, size)
