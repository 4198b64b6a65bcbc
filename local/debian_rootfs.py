"""Root folders of Debian packages: one that a node runs in, and one that the stand-in image is based on.

No package is installed on the machine itself, so its containerd, Docker or etcd do not change. `mmdebstrap`
checks each package against the archive's signature.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.paths import cache_dir
from common.progress import Step, step
from local.go_binaries import exclusive

MIRROR = "http://deb.debian.org/debian"
_Found = TypeVar("_Found", str, Path)
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class DebianRoot:
    """A set of packages from Debian suites, as a folder or as a tar archive.

    A later suite only serves packages that the first lacks: apt takes the highest version, and the first is the newest.
    """

    name: str
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    archive: bool = False

    def path(self) -> Path:
        """Path in the cache, keyed by every input that determines the content."""
        key = hashlib.sha256(repr((self, platform.machine())).encode()).hexdigest()[:12]
        return cache_dir() / "debian" / f"{self.name}-{key}{'.tar' if self.archive else ''}"


NODE_ROOT = DebianRoot(
    name="node",
    suites=("forky",),
    packages=(
        "buildah",
        "busybox-static",
        "ca-certificates",
        "conntrack",
        "containerd",
        "containernetworking-plugins",
        "etcd-server",
        "iproute2",
        "iptables",
        "netavark",  # buildah requires it even for a build on the host's network
        "openssl",
        "python3-minimal",
        "runc",
        "slirp4netns",
    ),
    exclude=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"),
)


def ensure(root: DebianRoot) -> Path:
    """Builds the root if the cache lacks it. A rename publishes it, so an interrupted run leaves no partial root."""
    target = root.path()
    if target.exists():
        return target
    with exclusive(cache_dir() / f"debian-{root.name}.lock", f"another build of the {root.name} root"):
        if not target.exists():
            _make(root, target)
    return target


def _make(root: DebianRoot, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    options = [
        f"--format={'tar' if root.archive else 'directory'}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in root.exclude),
    ]
    with (
        step(f"Installing {len(root.packages)} Debian packages ({root.name})") as progress,
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
    ):
        made = Path(scratch) / "root"
        mmdebstrap(root.suites, root.packages, made, options, progress)
        made.rename(target)


def mmdebstrap(
    suites: Sequence[str], packages: Sequence[str], target: Path, options: Sequence[str], progress: Step
) -> None:
    """Install packages and their dependencies into a new root at `target`.

    suites: the packages' sources; the first is that of the root. Raises UserError with the end of mmdebstrap's output.
    """
    command = [
        program("mmdebstrap", "mmdebstrap", "debian-archive-keyring"),
        "--mode=root",
        "--variant=minbase",
        # A testing suite's Release file may have expired; its signature is still checked.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "3"',
        *options,
        f"--include={','.join(packages)}",
        suites[0],
        str(target),
        "-",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"deb [signed-by={_KEYRING}] {MIRROR} {suite} main\n" for suite in suites))
        process.stdin.close()
        last: deque[str] = deque(maxlen=15)
        for line in process.stdout:
            last.append(line)
            progress.note(line.strip().removeprefix("I: "))
    if process.returncode != 0:
        raise UserError(
            f"The Debian packages of a {suites[0]} root cannot be installed:\n{''.join(last)}\n"
            f"Free disk: {shutil.disk_usage(cache_dir()).free >> 20} MiB in {cache_dir()}. "
            f"Is {MIRROR} reached from here?"
        )


def _apt_fix(error: str, packages: Sequence[str]) -> str:
    """Return the fix for an error of apt-get. It writes below /var, which may be full or read-only."""
    if re.search(r"read-only file system", error, re.IGNORECASE):
        what = "make /var writable"
    elif re.search(r"no space left|enough free space", error, re.IGNORECASE):
        what = f"free some disk space in /var ({shutil.disk_usage('/var').free >> 20} MiB are free)"
    else:
        what = "see the error"
    return f"    fix:     {what}, or install {' '.join(packages)} by hand; then run the same command again"


def program(name: str, *packages: str) -> str:
    """Return the path of a program of the machine; installs `packages` for it where apt-get exists."""
    return _of_packages(name, lambda: shutil.which(name), packages)


def file(path: Path, *packages: str) -> Path:
    """Return this path of the machine; installs `packages` for it where apt-get exists."""
    return _of_packages(str(path), lambda: path if path.is_file() else None, packages)


def _of_packages(name: str, find: Callable[[], _Found | None], packages: Sequence[str]) -> _Found:
    """Return what `find` finds, if need be after the installation of `packages`."""
    found = find()
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise UserError(f"{name} is not installed. Install {' '.join(packages)}, then run again.")
    with exclusive(cache_dir() / "apt.lock", "another installation"), step(f"Installing {' '.join(packages)}"):
        found = find()
        if found:
            return found
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = find()
        if done.returncode != 0 or not found:
            error = f"apt-get cannot install {' '.join(packages)}: {done.stderr.strip()[-400:]}"
            raise UserError(f"{error}\n{_apt_fix(done.stderr, packages)}")
    return found
