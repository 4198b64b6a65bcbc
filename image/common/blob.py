"""Bytes of a task or of a result on their way: small ones in memory, large ones in a file that has no name."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

MEMORY_BYTES = 256 * 1024
"""Up to this size a blob is held in memory, as long as all of them together stay within ``BUDGET_BYTES``."""

BUDGET_BYTES = 128 << 20
"""Memory for all blobs of a process; beyond it only those up to ``TINY_BYTES`` are held in memory."""

TINY_BYTES = 4096

PIECE_BYTES = 256 * 1024
"""Size of the pieces that are read from a file."""


class Blob:
    """A number of bytes that is known before they come. They are written in order, and can be read many times.

    A large blob is a file in ``TMPDIR`` that was unlinked at once: it goes with the last reference or with the process.

    Raises:
        OSError: from the constructor and ``write``, when the disk is full.
    """

    path: Path | None = None
    """The file's name, if it has kept one."""

    held: ClassVar[int] = 0
    """Bytes of all blobs that are in memory."""

    def __init__(self, size: int, folder: Path | None = None) -> None:
        """Make room for ``size`` bytes; a large blob in a named file of ``folder``, if that is given."""
        self.size = size
        self.written = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._held = 0
        self._ours = False
        """True for a file that no other process can open."""
        self._mapped: memoryview | None = None
        if size <= TINY_BYTES or (size <= MEMORY_BYTES and Blob.held + size <= BUDGET_BYTES):
            self._held = size
            Blob.held += size
            return
        if folder is None:
            self._file = tempfile.TemporaryFile(prefix="future-kubernetes-", buffering=0)  # noqa: SIM115
            self._ours = True
        else:
            descriptor, name = tempfile.mkstemp(".result", dir=folder)
            self._file, self.path = os.fdopen(descriptor, "w+b", buffering=0), Path(name)

    def __del__(self) -> None:
        Blob.held -= getattr(self, "_held", 0)  # the constructor may have failed

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """A complete blob of these bytes."""
        blob = cls(len(data))
        blob.write(data)
        return blob

    @classmethod
    def at(cls, path: Path, *, keep: bool = False) -> Blob:
        """A complete blob that takes over a file; unless ``keep``, the file's name goes.

        Raises:
            OSError: when there is no such file.
        """
        blob = cls(0)
        blob._file = path.open("rb", buffering=0)
        if keep:
            blob.path = path
        else:
            path.unlink()
        blob.size = blob.written = os.fstat(blob._file.fileno()).st_size
        return blob

    def write(self, piece: bytes | memoryview) -> None:
        """Append a piece."""
        if self._file is None:
            self._memory += piece
        else:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
        self.written += len(piece)

    def remove(self) -> None:
        """Remove the file's name, if it has kept one. Who still reads the blob can go on."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    def hash(self) -> str:
        """Hash of the content, as a word of 32 digits."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()[:32]

    @property
    def complete(self) -> bool:
        """True once all bytes have been written."""
        return self.written == self.size

    def piece(self, offset: int) -> bytes | memoryview:
        """Bytes from ``offset`` on, as many as one piece has; empty at the end."""
        if self._file is None:
            return bytes(self._memory[offset : offset + PIECE_BYTES])
        if self._mapped is None and self._ours and self.complete:
            self._map()
        if self._mapped is not None:
            return self._mapped[offset : offset + PIECE_BYTES]
        self._file.seek(offset)
        data = self._file.read(PIECE_BYTES)
        self._file.seek(0, 2)
        return data

    def _map(self) -> None:
        """Map the file, so that the same object is not copied again for each worker.

        Only a file that never had a name is mapped: who could cut it short would end this process by SIGBUS.
        """
        assert self._file is not None
        with contextlib.suppress(OSError):  # too many mappings: it is read
            self._mapped = memoryview(mmap.mmap(self._file.fileno(), self.size, prot=mmap.PROT_READ))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """All bytes, in pieces."""
        offset = 0
        while data := self.piece(offset):
            yield data
            offset += len(data)
