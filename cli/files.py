"""The laptop's side of the files: what of a project folder is copied in, and where results go."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch import remote
from batch.errors import BatchError, ConnectionLostError

IGNORE_FILE = ".batchignore"


@dataclass(frozen=True)
class Project:
    """A project folder and what of it is copied in. others: paths that are neither files nor folders."""

    folder: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    others: tuple[str, ...]
    size: int


def project(folder: Path, script: str) -> Project:
    """What is to be copied in, checked as far as the laptop can. Links are followed. Raises BatchError."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BatchError(f"the project folder {str(folder)!r} {what}.\nFix: give a folder, as in: analysis/ main.R")
    try:
        files, folders, others = remote.files_below(folder, _left_out(folder), into_linked_folders=True)
        for path in files:
            with (folder / path).open("rb"):
                pass
        size = sum((folder / path).stat().st_size for path in files)
    except OSError as error:
        raise BatchError(
            f"{error.filename} cannot be read: {error.strerror}.\nFix: mend it, or name it in {folder / IGNORE_FILE}"
        ) from None
    if os.path.normpath(script) not in files:
        scripts = [path for path in files if path.endswith((".R", ".r"))]
        named = f"its R scripts are {', '.join(scripts[:8])}" if scripts else "it has no R script"
        raise BatchError(f"there is no script {script!r} in {folder}; {named}.\nFix: give its path in that folder")
    return Project(folder, tuple(files), tuple(folders), tuple(others), size)


def _left_out(folder: Path) -> Callable[[str], bool]:
    """Whether a path is left out: by rule, or by a line of `.batchignore`, which are patterns as of a shell."""
    try:
        lines = (folder / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    patterns = [line.strip().rstrip("/").removeprefix("./") for line in lines]
    patterns = [pattern for pattern in patterns if pattern and not pattern.startswith("#")]

    def left_out(path: str) -> bool:
        return path in remote.FOLDERS_LEFT_OUT or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

    return left_out


@dataclass(frozen=True)
class Placed:
    """What became of a result. how: new, replaced, the same, or kept apart."""

    path: str
    how: str


def place(
    run: str,
    folder: Path,
    changed: dict[str, Any],
    receive: Callable[[Callable[[Any], dict[str, str]]], dict[str, str]],
    told: Callable[[int], None],
) -> list[Placed]:
    """Copies results out into `folder`: first all of them beside, then, verified, each to its place.

    A file of the laptop's that differs and was touched since the run began stays, and the result gets the run's name
    behind its own. Raises BatchError, or ConnectionLostError where the copy is not whole.
    """
    wanted = {path: total for path, _, total in changed["files"]}
    size = sum(size for _, size, _ in changed["files"])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BatchError(f"the results take {in_bytes(size)}, and {folder} has {in_bytes(free)} free")
    arriving = folder / f".batch-{run}"
    shutil.rmtree(arriving, ignore_errors=True)  # of an attempt that was cut off
    try:
        if receive(lambda stream: remote.unpack(stream, arriving, told)) != wanted:
            raise ConnectionLostError("the results did not arrive as they were sent")
        return [
            _placed(arriving / path, folder, path, total, changed["about"]["begun"], run)
            for path, total in wanted.items()
        ]
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _placed(arrived: Path, folder: Path, path: str, total: str, begun: float, run: str) -> Placed:
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        how = "new"
        if target.exists():
            if _sum(target) == total:
                return Placed(path, "the same")
            how = "replaced"
            if target.stat().st_ctime > begun:
                path, how = f"{path}.{run}", "kept apart"
        os.replace(arrived, folder / path)
    except OSError as error:
        raise BatchError(f"{target} cannot be written: {error.strerror}") from None
    return Placed(path, how)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def counted(files: Sequence[str]) -> str:
    """How many files."""
    return "1 file" if len(files) == 1 else f"{len(files)} files"


def in_bytes(size: float) -> str:
    """A size as people read it."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
