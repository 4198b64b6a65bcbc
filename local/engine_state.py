"""What the stand-in engine remembers of a stack: one file, readable by its owner alone, never half written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError

VERSION = 1


@dataclass
class Resource:
    """One resource as it was last made. `inputs` hold secrets in plain text, which is why the file is 0600."""

    urn: str
    type: str
    name: str
    id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    provider: str = ""


@dataclass
class State:
    """All resources of a stack in the order of their making, and the outputs of the last complete run."""

    path: Path
    resources: dict[str, Resource] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    secret_outputs: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> State:
        """The state at `path`, empty where there is none. Raises UserError where it cannot be understood."""
        if not path.exists():
            return cls(path)
        try:
            stored = json.loads(path.read_text())
            if stored["version"] != VERSION:
                raise UserError(f"{path} was written by another version of this program: {stored['version']}")
            resources = {entry["urn"]: Resource(**entry) for entry in stored["resources"]}
            return cls(path, resources, stored["outputs"], stored["secretOutputs"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}). It says what stack made of what; to begin anew: make down"
            ) from None

    def save(self) -> None:
        """Writes the file anew and moves it into place, so that an interruption leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "version": VERSION,
                "resources": [asdict(resource) for resource in self.resources.values()],
                "outputs": self.outputs,
                "secretOutputs": self.secret_outputs,
            },
            indent=1,
        )
        # mkstemp gives mode 0600 from the first byte on.
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Free some disk, then run again."
            ) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the stack's lock, or raises UserError naming the process that has it. The kernel frees it at any exit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"another run is at work on this stack (process {holder}). Wait for it, then run again."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
