"""The repository inside the machine."""

from __future__ import annotations

import subprocess

from common.paths import REPO
from tests.vm.guest import Guest

INSIDE = "/root/future-kubernetes"
# Tests list the tracked files.
_COMMIT = "git init -q && git add -A && git -c user.name=vm -c user.email=vm@localhost commit -qm copy"


def copy_commit(guest: Guest) -> None:
    """Copy HEAD into the machine, as a fresh clone has it."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPO, capture_output=True, check=True).stdout
    guest.run(f"mkdir -p {INSIDE} && tar -x -C {INSIDE} && cd {INSIDE} && {_COMMIT}", stdin=archive)


def copy_working_tree(guest: Guest) -> None:
    """Copy the working tree over the files inside, to try changes in a running machine."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=REPO, capture_output=True, check=True,
    ).stdout  # fmt: skip
    there = b"\0".join(name for name in listed.split(b"\0") if name and (REPO / name.decode()).is_file())
    command = ["tar", "-c", "--null", "-T", "-"]
    archive = subprocess.run(command, cwd=REPO, input=there, capture_output=True, check=True).stdout
    guest.run(f"mkdir -p {INSIDE} && tar -x -C {INSIDE}", stdin=archive)
