"""Files on the user's machine: which of a project folder are copied in, and where results go."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pathspec

from cli import pod_files
from cli.errors import ConnectionLostError
from common.errors import UserError

IGNORE_FILE = ".batchignore"


@dataclass(frozen=True)
class Project:
    """A project folder, and what is copied of it. others: paths that are neither files nor folders."""

    folder: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    others: tuple[str, ...]
    size: int


def project(folder: Path, script: str) -> Project:
    """The part of a project folder that is to be copied, links followed. Raises UserError for what is unreadable."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"the project folder {str(folder)!r} {what}.\nFix: give a folder, as in: analysis/ main.R")
    try:
        files, folders, others = pod_files.files_below(folder, _ignored(folder), into_linked_folders=True)
        for path in files:
            with (folder / path).open("rb"):
                pass
        size = sum((folder / path).stat().st_size for path in files)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}.\n"
            f"Fix: make it readable, or name it in {folder / IGNORE_FILE}"
        ) from None
    if os.path.normpath(script) not in files:
        scripts = [path for path in files if path.endswith((".R", ".r"))]
        named = f"its R scripts are {', '.join(scripts[:8])}" if scripts else "it has no R script"
        raise UserError(f"there is no script {script!r} in {folder}; {named}.\nFix: give its path in that folder")
    return Project(folder, tuple(files), tuple(folders), tuple(others), size)


def _ignored(folder: Path) -> Callable[[str, bool], bool]:
    """A test for paths that are not copied: those of `FOLDERS_LEFT_OUT`, and those that `.batchignore` names.

    The file has the rules of .gitignore.
    """
    try:
        lines = (folder / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    try:
        rules = pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise UserError(
            f"{folder / IGNORE_FILE} has a line that is no pattern: {error}.\n"
            "Fix: write it by the rules of .gitignore (https://git-scm.com/docs/gitignore)"
        ) from None

    def ignored(path: str, is_folder: bool) -> bool:
        return pod_files.left_out(path) or rules.match_file(f"{path}/" if is_folder else path)

    return ignored


@dataclass(frozen=True)
class Placed:
    """A result and what happened to it: "new", "replaced", "the same" or "kept apart"."""

    path: str
    how: str


def place(
    run: str,
    folder: Path,
    changed: dict[str, Any],
    receive: Callable[[Callable[[Any], dict[str, str]]], dict[str, str]],
    progress: Callable[[int], None],
) -> list[Placed]:
    """Copies results into `folder`: first all of them beside it, then, once verified, each to its place.

    A file of the user's that differs and was changed since the run began stays; the result then gets the run's name
    as a suffix. Raises UserError, or ConnectionLostError where the copy is incomplete.
    """
    wanted = {path: checksum for path, _, checksum in changed["files"]}
    size = sum(size for _, size, _ in changed["files"])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"the results take {in_bytes(size)}, and {folder} has {in_bytes(free)} free.\n"
            "Fix: free some space, or --results with a folder on another disk"
        )
    arriving = folder / f".batch-{run}"
    shutil.rmtree(arriving, ignore_errors=True)  # an earlier copy was interrupted
    try:
        if receive(lambda stream: pod_files.unpack(stream, arriving, progress)) != wanted:
            raise ConnectionLostError("the results did not arrive as they were sent")
        return [
            _placed(arriving / path, folder, path, checksum, changed["about"]["begun"], run)
            for path, checksum in wanted.items()
        ]
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _placed(arrived: Path, folder: Path, path: str, checksum: str, begun: float, run: str) -> Placed:
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        how = "new"
        if target.exists():
            if _checksum(target) == checksum:
                return Placed(path, "the same")
            how = "replaced"
            if target.stat().st_ctime > begun:
                path, how = f"{path}.{run}", "kept apart"
        os.replace(arrived, folder / path)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.\nFix: --results with another folder") from None
    return Placed(path, how)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def counted(files: Sequence[str]) -> str:
    """The number of files in words."""
    return "1 file" if len(files) == 1 else f"{len(files)} files"


def in_bytes(size: float) -> str:
    """A size in the unit that people would use."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
