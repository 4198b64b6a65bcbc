"""The files of a session's working directory, as the futures of its plan find them on this worker.

They come in bundles, which files.R of the R package writes, and go to the disk as they arrive. R runs no future then.
A bundle is a number of records: a line of words, so many bytes of a name as the line's last word says, and the content.

    folder SERIAL BYTES                    the session's folder; 0 begins anew, else the bundles before have to be there
    remove BYTES                           a file that the session does not have any more
    file SIZE AT MODE MTIME BYTES          content of a file from a position on, its mode, and its time in microseconds

R learns from a file of the objects' folder where the files are: `REASON`, `PLACE` and the bundles' names, one a line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import tempfile
from pathlib import Path

from .channel import Channel, ChannelError

PREFIX = "files"
"""First letters of a bundle's name. No other object's name has them: those are hexadecimal."""

_LINE_BYTES = 128

_GET_FLAGS, _SET_FLAGS, _TOP = 0x80086601, 0x40086602, 0x20000
"""Of linux/fs.h on machines of 64 bits: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Files:
    """The folder. It lasts as long as the plan that the worker works for."""

    def __init__(self, note: Path) -> None:
        """The folder is not there yet; ``note`` is the file that R reads."""
        self._note = note
        self._place = b""
        self._made = b""
        """The folder made for it: the same, or the one above."""
        self._applied: list[str] = []

    def receive(self, line: Channel, name: str, size: int) -> list[str]:
        """Take a bundle from the broker; names of bundles that are not there any more, or not as a whole.

        Raises:
            ChannelError: when the broker's connection has ended.
            ValueError: when it is no bundle.
        """
        before, body, reason = self._applied, _Body(line, size), ""
        self._applied = []  # a half of a bundle must not be taken for it
        try:
            reason = self._apply(body, before)
        except ChannelError:
            self.clear()
            raise
        except OSError as error:
            full = "the disk of the worker's pod is full, no room for the session's files"
            reason = full if error.errno in _FULL else "the worker's pod could not keep the session's files"
            reason = f"{reason}: {error}"
        finally:
            body.drop()
        if reason:
            self.clear()
            self._write_note(reason)
            return [*before, name]
        self._applied.append(name)
        self._write_note("")
        return [one for one in before if one not in self._applied]

    def _apply(self, body: _Body, before: list[str]) -> str:
        """Bring the folder up to the bundle. Why that cannot be, else empty."""
        word, serial, length = body.line().split(b" ")
        if word != b"folder":
            raise ValueError(f"a bundle of files begins with {word!r}")
        folder = body.read(int(length))
        if int(serial) == 0:
            self.clear()
            self._find_place(folder)
        elif int(serial) == len(before):
            self._applied = before[:]
        else:
            return "files that were sent before are not there; the next future brings them again"
        made = {self._place}
        while body.left:
            word, *numbers = body.line().split(b" ")
            path = os.path.join(self._place, body.read(int(numbers[-1])))
            if word == b"remove":
                _unlink(path)
                continue
            size, at, mode, time = map(int, numbers[:4])
            above = os.path.dirname(path)
            if above not in made:
                os.makedirs(above, exist_ok=True)
                made.add(above)
            descriptor = _new(path) if at == 0 else _more(path)
            try:
                while size:
                    piece = body.some(size)
                    size -= len(piece)
                    while piece:
                        piece = piece[os.write(descriptor, piece) :]
                os.fchmod(descriptor, mode)
                os.utime(descriptor, ns=(time * 1000, time * 1000))
            finally:
                os.close(descriptor)
        return ""

    def _find_place(self, folder: bytes) -> None:
        """Make the session's own path, so that full names of files hold as well; if this pod has it, another one."""
        if not os.path.lexists(folder):
            try:
                os.makedirs(os.path.dirname(folder), exist_ok=True)
                spread_folders_of(os.path.dirname(folder))
                os.mkdir(folder)
            except OSError:
                pass
            else:
                self._place = self._made = folder
                spread_folders_of(folder)
                return
        self._made = os.fsencode(tempfile.mkdtemp(prefix="project-"))
        spread_folders_of(self._made)
        self._place = os.path.join(self._made, os.path.basename(folder))
        os.mkdir(self._place)
        spread_folders_of(self._place)

    def _write_note(self, reason: str) -> None:
        lines = [os.fsencode(" ".join(reason.split())), self._place, *map(str.encode, self._applied)]
        try:
            self._note.write_bytes(b"".join(line + b"\n" for line in lines))
        except OSError:  # a disk without any room; R finds a line that is too short
            self._note.unlink(missing_ok=True)

    def clear(self) -> list[str]:
        """Remove the folder, with what futures have written there; the names of its bundles."""
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)
        self._place = self._made = b""
        names, self._applied = self._applied, []
        self._note.unlink(missing_ok=True)
        return names


def spread_folders_of(folder: bytes) -> None:
    """Let ext4 put each folder that is made in this one elsewhere on the disk, where the flag can be set.

    Else it looks for new files' inodes where those of the last plan were deleted, or those of other pods. It tries one
    after another, since it uses none again for minutes: 1,000 files took up to 0.7 s of CPU in place of 0.02 s.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            flags = bytearray(8)  # of which the kernel uses an int
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            struct.pack_into("i", flags, 0, struct.unpack_from("i", flags)[0] | _TOP)
            fcntl.ioctl(descriptor, _SET_FLAGS, bytes(flags))
        finally:
            os.close(descriptor)


def _new(path: bytes) -> int:
    """A file in place of what is there: a future may have put a link there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        _unlink(path)
        return os.open(path, flags, 0o600)


def _more(path: bytes) -> int:
    """The file of an earlier piece, which may be a read-only one."""
    os.chmod(path, 0o600)
    return os.open(path, os.O_WRONLY | os.O_APPEND)


def _unlink(path: bytes) -> None:
    """Remove a file, or what a future has put in its place."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(path)


class _Body:
    """A bundle that follows on the broker's connection. Its pieces are valid until the next one is read."""

    def __init__(self, line: Channel, size: int) -> None:
        self._line = line
        self._unread = size
        self._piece = memoryview(b"")

    @property
    def left(self) -> int:
        """Number of bytes that follow."""
        return self._unread + len(self._piece)

    def some(self, most: int) -> memoryview:
        """The next bytes, at least one of ``most``."""
        self._fill()
        piece, self._piece = self._piece[:most], self._piece[most:]
        return piece

    def read(self, size: int) -> bytes:
        """That many bytes."""
        data = bytearray()
        while len(data) < size:
            data += self.some(size - len(data))
        return bytes(data)

    def line(self) -> bytes:
        """The next line, without its newline."""
        data = bytearray()
        while True:
            self._fill()
            head = bytes(self._piece[:_LINE_BYTES])
            end = head.find(b"\n")
            data += head[: end if end >= 0 else len(head)]
            self._piece = self._piece[end + 1 if end >= 0 else len(head) :]
            if end >= 0:
                return bytes(data)

    def _fill(self) -> None:
        if not self._piece:
            if not self._unread:
                raise ValueError("a bundle of files ends too early")
            self._piece = self._line.take(self._unread)
            self._unread -= len(self._piece)

    def drop(self) -> None:
        """Read what is left of it, so that the next line is found."""
        while self.left:
            self.some(self.left)
