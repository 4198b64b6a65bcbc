"""A plan's connection from its R session: tasks come, and what became of them goes.

After ``open KEY PID MIN MAX RETRIES`` is answered with ``opened MOST BYTES`` (the largest number of workers that the
plan can have, and how many bytes of tasks the broker takes) or with ``error KIND TEXT`` (a session on another machine
draws its PID, below 0):

    submit NUMBER SIZE NEEDS LABEL + SIZE bytes  a task; the objects that it refers to, with commas, or "-"; LABEL may
                                                 be empty
    file NUMBER SIZE PATH NEEDS LABEL            the same in a file of this pod, which the broker takes over
    object HASH SIZE              + SIZE bytes   a large object, by the hash of its content
    object-file HASH SIZE PATH                   the same in a file
    forget HASH                                  the object is needed no more
    libraries SIZE                + SIZE bytes   lines "image PATH" and "own PATH": where this session's R has packages;
                                                 of a session on another machine lines "package TIME SIZE PATH"
    package SIZE PATH             + SIZE bytes   the package that was asked for by "want", as a tar archive
    no-package SIZE PATH          + text         or why it cannot be had
    build SIZE PATH               + text         or its name, to be installed in the scheduler's pod
    cancel NUMBER                                forget a task, and end the R that runs it
    fetch NUMBER                                 send the result of a task that is "ready"
    got NUMBER ...                               these results have arrived
    hold NUMBER ...                              after a lost connection: tasks that the session still waits for
    range MIN MAX                                another number of workers
    close [abandon]                              the plan has ended; abandon: it never began, undo what it asked for

    want - SIZE                   + SIZE bytes   a worker looks for the package in this folder of the session's machine
    done NUMBER [VALUES] SIZE     + SIZE bytes   the result, as R serialized it; in place of its large values stand
                                                 their places in VALUES, hashes with commas
    value-file HASH SIZE PATH                    a large value is this file until the results that have it are "got"
    value HASH SIZE               + SIZE bytes   the same for a session on another machine, once until "forget"
    forget HASH                                  it comes again if another result has it
    ready NUMBER SIZE                            result and values are here and larger than INLINE_BYTES
    condition NUMBER ATTEMPT SIZE + SIZE bytes   a condition that is to be seen at once
    again NUMBER POD TEXT                        the task's worker was lost, and the task runs again
    lost NUMBER SIZE              + JSON         given up: pods, reasons, and the last lines that R printed
    unread, setup, unsent, unkept, refused NUMBER SIZE + text   R could not read the task, its plan's setup failed, R
                                                 could not send the result; the broker could not keep the result, not
                                                 take the task
    unknown NUMBER                               the broker does not have this task: send it again
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..common.blob import Blob
from .demand import Demand
from .dispatch import Dispatcher
from .kubernetes import KubeError
from .log import log
from .packages import Answer
from .plans import Plan, Range

if TYPE_CHECKING:
    from .connections import Connection

_MAX_BYTES = 8 << 30
_SHARE_OF_DISK = 0.5


def room() -> int:
    """Bytes of tasks that one plan may have queued: half of the free disk, 8 GiB at most."""
    return min(_MAX_BYTES, int(shutil.disk_usage(tempfile.gettempdir()).free * _SHARE_OF_DISK))


class Stream:
    """Speaks for one plan on one connection."""

    def __init__(self, connection: Connection, dispatcher: Dispatcher, demand: Demand) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._demand = demand
        self._plan: Plan | None = None
        self._given: set[str] = set()
        """Large values of results that the session, on another machine, has."""
        self._known: dict[str, Callable[[list[str]], None]] = {
            "submit": self._submit,
            "file": self._file,
            "object": self._object,
            "object-file": self._object_file,
            "libraries": self._libraries,
            "package": self._answers(lambda body: Answer(body, "" if body else "the scheduler's disk is full")),
            "no-package": self._answers(lambda body: Answer(reason=_text(body) or "its session could not send it")),
            "build": self._answers(lambda body: Answer(install=_text(body))),
            "forget": lambda words: self._dispatcher.forget(self._here, words[0]),
            "cancel": self._cancel,
            "fetch": lambda words: self._dispatcher.fetch(self._here, int(words[0])),
            "got": lambda words: self._dispatcher.collected(self._here, [int(word) for word in words]),
            "hold": lambda words: self._dispatcher.unknown(self._here, [int(word) for word in words]),
            "range": self._range,
            "close": self._close,
        }

    @property
    def _here(self) -> Plan:
        assert self._plan is not None
        return self._plan

    def open(self, key: str, pid: int, minimum: int, maximum: int, retries: int) -> None:
        """Begin or take up a plan, within the release's maximum."""
        if not key.isalnum() or not 0 < minimum <= maximum or pid == 0 or retries < 0:
            raise ValueError("not a plan")
        try:
            maximum = self._demand.allowed(minimum, maximum)
        except KubeError as error:
            self._refuse(error.kind, str(error))
            return
        self.tell(f"opened {maximum} {room()}")
        self._plan = self._dispatcher.plans.open(key, pid, Range(minimum, maximum), retries, self)
        self._demand.changed()

    def _refuse(self, kind: str, text: str) -> None:
        self.tell(f"error {kind} {text}")
        self._connection.finish()

    def tell(self, line: str, body: Blob | None = None) -> None:
        """Send one line and its body."""
        self._connection.say(line.encode() + b"\n", body)

    def give(self, name: str, value: Blob) -> None:
        """Let the session have a large value: by the name of its file in this pod, else once by its bytes."""
        if not self._here.remote:
            self.tell(f"value-file {name} {value.size} {value.path}")
        elif name not in self._given:
            self._given.add(name)
            self.tell(f"value {name} {value.size}", value)

    def forget(self, name: str) -> None:
        """Report to the session that it needs a large value no more, if it has it."""
        if name in self._given:
            self._given.remove(name)
            self.tell(f"forget {name}")

    def line_received(self, line: bytes) -> None:
        """Handle one line of the session."""
        word, *words = line.decode(errors="replace").split(" ")
        try:
            self._known[word](words)
        except (KeyError, IndexError, ValueError, AssertionError):
            log(f"dropped an R session that said {line[:80]!r}")
            self._refuse("broker", f"not understood: {line[:80]!r}; known are {', '.join(self._known)}")

    def _submit(self, words: list[str]) -> None:
        plan, number, size = self._here, int(words[0]), int(words[1])
        needs, label = _needs(words[2]), " ".join(words[3:])
        if size < 0:
            raise ValueError("a negative size")

        def arrived(body: Blob | None) -> None:
            if body is None:
                self._dispatcher.refuse(plan, number, f"the scheduler's disk is full: no room for {size} bytes")
            else:
                self._dispatcher.submit(plan, number, label, body, needs)

        self._connection.expect(size, arrived)

    def _file(self, words: list[str]) -> None:
        plan, number, path = self._here, int(words[0]), Path(unquote(words[2]))
        needs, label = _needs(words[3]), " ".join(words[4:])
        try:
            self._dispatcher.submit(plan, number, label, Blob.at(path), needs)
        except OSError as error:
            self._dispatcher.refuse(plan, number, f"its file cannot be read: {error}")

    def _object(self, words: list[str]) -> None:
        objects, name, size = self._here.objects, _name(words[0]), int(words[1])

        def arrived(body: Blob | None) -> None:
            objects[name] = body

        self._connection.expect(size, arrived)

    def _object_file(self, words: list[str]) -> None:
        name = _name(words[0])
        try:
            self._here.objects[name] = Blob.at(Path(unquote(words[2])))
        except OSError as error:
            log(f"an object's file cannot be read: {error}")
            self._here.objects[name] = None

    def _libraries(self, words: list[str]) -> None:
        libraries = self._here.libraries

        def arrived(body: Blob | None) -> None:
            lines = [line.partition(" ") for line in _text(body).splitlines()]
            if self._here.remote:
                rows = [rest.split(" ", 2) for word, _, rest in lines if word == "package"]
                libraries.listed({path: (0, int(time), int(size)) for time, size, path in rows})
            else:
                paths = {which: [Path(path) for word, _, path in lines if word == which] for which in ("image", "own")}
                libraries.said(paths["image"], paths["own"])

        self._connection.expect(int(words[0]), arrived)

    def _answers(self, read: Callable[[Blob | None], Answer]) -> Callable[[list[str]], None]:
        """Handle what a session on another machine says of the package that it was asked for."""

        def handle(words: list[str]) -> None:
            libraries, folder = self._here.libraries, unquote(words[1])
            self._connection.expect(int(words[0]), lambda body: libraries.answered(folder, read(body)))

        return handle

    def _cancel(self, words: list[str]) -> None:
        task = self._here.tasks.get(int(words[0]))
        if task is not None:
            self._dispatcher.cancel(task)

    def _range(self, words: list[str]) -> None:
        self._here.range = Range(int(words[0]), int(words[1]))
        self._demand.changed()

    def _close(self, words: list[str]) -> None:
        plan, abandoned = self._here, words == ["abandon"]
        self._dispatcher.plans.close(plan, abandoned=abandoned)
        if abandoned and plan.wanted_before is not None:
            self._demand.when_settled(self._connection.finish)
        else:
            self._connection.finish()

    def lost(self) -> None:
        """The connection has ended."""
        if self._plan is not None:
            self._dispatcher.plans.left(self._plan, self)


def _name(word: str) -> str:
    """The name of an object.

    Raises:
        ValueError: when it is none.
    """
    if not word.isalnum():
        raise ValueError(f"{word!r} is no hash")
    return word


def _text(body: Blob | None) -> str:
    return b"".join(body.pieces() if body is not None else ()).decode(errors="surrogateescape")


def _needs(word: str) -> tuple[str, ...]:
    return () if word == "-" else tuple(map(_name, word.split(",")))
