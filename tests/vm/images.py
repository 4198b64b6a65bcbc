"""Disk images, built once and kept in the cache folder: the root file system with its kernel, and the home folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.paths import cache_dir
from common.progress import step
from local.debian_rootfs import mmdebstrap, program
from tests.vm.inherit import CERTIFICATES
from tests.vm.spec import UML_PACKAGES, MachineSpec

HOOKS = (
    "--format=directory",
    '--customize-hook=chroot "$1" systemctl enable systemd-networkd ssh',
    f'--customize-hook=mkdir -p {CERTIFICATES} && cp -r {CERTIFICATES}/. "$1{CERTIFICATES}"',
    '--customize-hook=chroot "$1" update-ca-certificates',
)
_ROOT_SIZE, _HOME_SIZE = "16G", "40G"
# Folders that `make up` deletes after compiling, and the images of this module.
_NOT_WARM = ("go-build", "go-mod", "vm")


@dataclass(frozen=True)
class RootImage:
    """A root file system's disk with the kernel that boots it."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def programs(self) -> Path:
        """Root folder with user-mode Linux, where that is the kernel."""
        return self.folder / "programs"


def vm_dir() -> Path:
    """Return the folder for disks, the ssh key, and the state of the running machine."""
    folder = cache_dir() / "vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def root_image(spec: MachineSpec) -> RootImage:
    """Return the root file system of a machine; builds it unless it exists."""
    certificates = [path.read_bytes() for path in sorted(CERTIFICATES.rglob("*.crt"))]
    key = hashlib.sha256(repr((spec.key(), certificates)).encode()).hexdigest()[:12]
    target = vm_dir() / f"root-{spec.debian}-{key}"
    if not target.exists():
        with (
            step(f"Building Debian {spec.debian}") as progress,
            tempfile.TemporaryDirectory(dir=vm_dir(), prefix="new-") as scratch,
        ):
            root, made = Path(scratch) / "root", Path(scratch) / "made"
            made.mkdir()
            mmdebstrap([spec.suite], spec.packages, root, HOOKS, progress)
            for name, text in spec.files.items():
                path = root / name
                path.unlink(missing_ok=True)
                path.write_text(text)
            if spec.kernel == "uml":
                mmdebstrap([spec.suite], UML_PACKAGES, made / "programs", ("--format=directory",), progress)
                modules = made / "programs/usr/lib/uml/modules"
                shutil.copytree(modules, root / "usr/lib/modules", symlinks=True, dirs_exist_ok=True)
            else:
                for name, kept in (("vmlinuz", "kernel"), ("initrd.img", "initrd")):
                    (boot,) = (root / "boot").glob(f"{name}-*")
                    shutil.copy(boot, made / kept)
            progress.note("writing the disk")
            _ext4(made / "disk", root, "root", _ROOT_SIZE)
            made.rename(target)
    return RootImage(target)


def home_image(caches: str, public_key: str) -> Path:
    """Return the disk of /root: the ssh key, and with warm caches those of this machine's `make up`."""
    sources = warm_sources() if caches == "warm" else {}
    digest = hashlib.sha256(public_key.encode())
    for name, source in sources.items():
        digest.update(f"{name} {_listing(source)}".encode())
    target = vm_dir() / f"home-{caches}-{digest.hexdigest()[:12]}"
    if not target.exists():
        for old in vm_dir().glob(f"home-{caches}-*"):
            old.unlink()  # first: a warm one is the largest file here, and two might fill the disk
        with (
            step(f"Writing the disk of /root, caches {caches}") as progress,
            tempfile.TemporaryDirectory(dir=vm_dir(), prefix="new-") as scratch,
        ):
            home = Path(scratch) / "home"
            (home / ".ssh").mkdir(parents=True, mode=0o700)
            home.chmod(0o700)
            (home / ".ssh" / "authorized_keys").write_text(public_key)
            for name, source in sources.items():
                progress.note(f"taking {source.name}")
                _take(source, home / name)
            progress.note("writing")
            _ext4(Path(scratch) / "disk", home, "home", _HOME_SIZE)
            (Path(scratch) / "disk").rename(target)
    return target


def warm_sources() -> dict[str, Path]:
    """Return the warm caches by their path below /root: the project's own cache and uv's."""
    sources = {
        f".cache/future-kubernetes/{entry.name}": entry
        for entry in sorted(cache_dir().iterdir())
        if entry.name not in _NOT_WARM and not entry.name.startswith("tmp")
    }
    uv = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    return {**sources, ".cache/uv": uv} if uv.is_dir() else sources


def _listing(source: Path) -> str:
    """Return the names two levels down: in the project's cache a name contains the key of the content."""
    return repr(sorted(str(path.relative_to(source)) for pattern in ("*", "*/*") for path in source.glob(pattern)))


def _take(source: Path, target: Path) -> None:
    """Copies by hard links within one file system: the copies exist only until the disk is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for how in ("--link", "--reflink=auto"):
        done = subprocess.run(["cp", "-a", how, source, target], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        shutil.rmtree(target, ignore_errors=True)
    else:
        raise UserError(f"{source} cannot be copied: {done.stderr.strip()[-400:]}")
    for leftover in target.glob("tmp*"):
        if target.name == "bin":
            shutil.rmtree(leftover)


def _ext4(disk: Path, content: Path, label: str, size: str) -> None:
    _checked([program("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-L", label, "-d", str(content), str(disk), size])


def _checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        free = shutil.disk_usage(vm_dir()).free >> 20
        raise UserError(f"{command[0]} failed: {done.stderr.strip()[-400:]}\nFree disk: {free} MiB in {vm_dir()}.")


def ssh_key() -> Path:
    """Return the private ssh key of this cache folder's virtual machines; the public key is beside it."""
    key = vm_dir() / "key"
    if not key.exists():
        keygen = program("ssh-keygen", "openssh-client")
        _checked([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "tests.vm", "-f", str(key)])
    return key
