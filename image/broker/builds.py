"""Installs packages from the image's repository, for a session on another machine whose own cannot be used here."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path

from .log import log

_SECONDS = 1800.0
_REASON_BYTES = 600
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]")

_PROGRAM = """
arguments <- commandArgs(TRUE)
options(timeout = 600, warn = 1)
.libPaths(c(arguments[2], .libPaths()))
utils::install.packages(arguments[1], lib = arguments[2], quiet = TRUE)
if (!file.exists(file.path(arguments[2], arguments[1], "Meta", "package.rds"))) quit(status = 1)
"""


class BuildError(Exception):
    """A package could not be installed; the message has the reason."""


class Builds:
    """A library of such packages, with what they need beyond the image. It goes with the pod."""

    def __init__(self) -> None:
        self._library: Path | None = None
        self._one = asyncio.Lock()
        """R locks a library for one installation at a time."""

    async def install(self, name: str) -> Path:
        """The folder of the installed package.

        Raises:
            BuildError: when R could not install it.
        """
        if not _NAME.fullmatch(name):
            raise BuildError(f"{name!r} is no name of a package")
        async with self._one:
            if self._library is None:
                self._library = Path(tempfile.mkdtemp(prefix="future-built-"))
            folder = self._library / name
            if not (folder / "Meta" / "package.rds").exists():
                await self._run(name, self._library)
        return folder

    async def _run(self, name: str, library: Path) -> None:
        log(f"installing the package {name} for a session on another machine")
        try:
            process = await asyncio.create_subprocess_exec(
                "Rscript", "-e", _PROGRAM, name, str(library),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "FUTURE_KUBERNETES_QUIET": "1"},
            )  # fmt: skip
        except OSError as error:
            raise BuildError(f"R could not be started: {error}") from None
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
        except TimeoutError:
            process.kill()
            raise BuildError(f"its installation took more than {_SECONDS / 60:.0f} minutes") from None
        if process.returncode != 0:
            text = " ".join(said.decode(errors="replace").split())[-_REASON_BYTES:]
            raise BuildError(f"the scheduler's pod could not install it: {text}")
