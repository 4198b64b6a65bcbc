"""Files with secrets: readable by their owner only (mode 0600) from the first byte on."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600 in one step: after an interruption there is the old file or the new one.

    Raises UserError where the disk is full or the folder is read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise UserError(
            f"{path} cannot be written: {error.strerror}\n"
            f"    fix: free some disk space (df -h {path.parent}), then run the same command again"
        ) from None


@contextlib.contextmanager
def private_file(text: str) -> Iterator[Path]:
    """A temporary file of mode 0600. Helm values and kubeconfigs belong in no argument: `ps` shows arguments."""
    with tempfile.NamedTemporaryFile("w", prefix="future-kubernetes-") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)
