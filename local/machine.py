"""Checks that this machine can hold a node, loads the kernel modules that it needs, and explains a failed start."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.paths import cache_dir, state_dir
from local import cgroups, debian_rootfs

_FREE_DISK_GIB = 6
_FREE_DISK_EMPTY_CACHE_GIB = 14
# Of the state: a node with the image unpacked takes 1.6 GiB, and the pods' files come on top.
_FREE_DISK_STATE_GIB = 3

_ALTERNATIVE = (
    "An existing cluster will do instead:\n"
    "  pulumi stack init campus && pulumi config set cloud kubeconfig\n"
    "  pulumi config set context NAME && pulumi up\n"
    "(`kubectl config get-contexts` lists the names)"
)

HOPELESS_ENDINGS = 3
"""Number of times that a service may end with the same error before the start is given up."""

# Errors of a service that waits for another. Each occurs and disappears while a node starts.
_PASSING = re.compile(
    r"connection refused|deadline exceeded|timed? ?out|not found|no such host|Unauthorized|forbidden|dial (tcp|unix)"
    r"|\.sock|TLS handshake|EOF|etcdserver|leader|connection reset|apiserver",
    re.IGNORECASE,
)

_FIXES = (
    (r"missing controllers|cgroup", "check `cat /sys/fs/cgroup/cgroup.controllers`, then run `make down && make up`"),
    (r"no space left", "free some disk space, then run `make up` again"),
    (r"read-only file system", "make the folder writable, or move it with FUTURE_KUBERNETES_STATE"),
    (r"inotify|too many open files", "sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576"),
    (r"iptables|nf_tables|xt_|nat table|Table does not exist", "modprobe -a nf_tables nft_compat nft_chain_nat"),
    (r"overlay", "modprobe overlay"),
    (r"veth|operation not supported", "modprobe veth"),
    (r"permission denied|operation not permitted", "use a machine or a virtual machine instead of a container"),
    (r"address already in use", "run `make down && make up`"),
)


def preflight() -> None:
    """Load missing kernel modules; raise UserError with every reason why no node can run here.

    Changes nothing else of the machine.
    """
    reasons = []
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        reasons.append(f"it is {sys.platform} on {platform.machine()}; a node needs Linux on x86_64 or aarch64")
    elif os.geteuid() != 0:
        reasons.append("you are not root, and a node needs namespaces, mounts and cgroups: try `sudo make up`")
    else:
        reasons += _missing_programs() + _missing_features() + cgroups.problems() + _storage_problems()
    if reasons:
        raise UserError("Kubernetes cannot run on this machine:\n  - " + "\n  - ".join(reasons) + f"\n{_ALTERNATIVE}")


def _missing_programs() -> list[str]:
    return [
        f"{program} is not installed: apt-get install {package}"
        for program, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("mount", "mount"))
        if not shutil.which(program)
    ]


def _missing_features() -> list[str]:
    reasons = []
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        if not Path(f"/proc/self/ns/{kind}").exists():
            reasons.append(f"the kernel has no {kind} namespaces: use the distribution's own kernel")
    if not _has_overlay() and not _load_module("overlay", _has_overlay):
        reasons.append(_no_module("overlay", "an overlay file system"))
    if not _has_tun() and not _load_module("tun", _has_tun):
        reasons.append(_no_module("tun", "/dev/net/tun"))
    return reasons


def _has_overlay() -> bool:
    return "\toverlay\n" in Path("/proc/filesystems").read_text()


def _has_tun() -> bool:
    return Path("/dev/net/tun").exists()


def _load_module(name: str, loaded: object) -> bool:
    """Load a kernel module, print that, and return True if the kernel has it now."""
    assert callable(loaded)
    if not shutil.which("modprobe"):
        return False
    done = subprocess.run(["modprobe", name], capture_output=True, text=True, check=False)
    if done.returncode == 0 and loaded():
        print(f"Loaded the kernel module {name}; it stays loaded until the machine restarts", flush=True)
        return True
    return False


def _no_module(name: str, feature: str) -> str:
    release = os.uname().release
    if not shutil.which("modprobe"):
        return f"the kernel has no {feature}, and modprobe is not installed to load it: apt-get install kmod"
    if not Path("/lib/modules", release).exists():
        return (
            f"the kernel has no {feature}, and there are no modules of kernel {release} in /lib/modules: in a "
            f"container, run `modprobe {name}` on its host; after a kernel update, restart the machine"
        )
    return f"the kernel {release} has no {feature} (module {name}): use the distribution's own kernel"


def _storage_problems() -> list[str]:
    empty = not debian_rootfs.NODE_ROOT.path().exists()
    reasons = []
    for folder, variable, wanted in (
        (cache_dir(), "FUTURE_KUBERNETES_CACHE", _FREE_DISK_EMPTY_CACHE_GIB if empty else _FREE_DISK_GIB),
        (state_dir("x").parent, "FUTURE_KUBERNETES_STATE", _FREE_DISK_STATE_GIB),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            reasons.append(f"{folder} cannot be written ({error.strerror}): set {variable} to a folder on another disk")
            continue
        free = shutil.disk_usage(folder).free / 2**30
        if free < wanted:
            reasons.append(
                f"{folder} has {free:.1f} GiB free, and {wanted} GiB are needed: free some, or set {variable} to a "
                "folder on another disk"
            )
    return reasons


def endings(run_folder: Path) -> list[tuple[str, int, str]]:
    """Return each service that has ended: name, number of ends in a row with the same error, and error. Most first.

    run_folder: the node's /run/node, where its supervisor keeps a file for each service.
    """
    found = []
    for file in sorted((run_folder / "endings").glob("*")):
        count, _, error = file.read_text(errors="replace").partition("\n")
        if count.isdigit() and int(count):
            found.append((file.name, int(count), error.strip()))
    return sorted(found, key=lambda ending: -ending[1])


def hopeless(run_folder: Path) -> str:
    """Return the reason why the node cannot start, with a known fix; empty while it may still start.

    A service that has ended three times in a row with the same error will end again, unless it only waits for
    another service.
    """
    for name, count, error in endings(run_folder):
        if count >= HOPELESS_ENDINGS and error and not _PASSING.search(error):
            return f"{name} ended {count} times: {error}\n    fix:     {fix_for(error)}"
    return ""


def fix_for(error: str) -> str:
    """Return the fix for a service's error."""
    for pattern, fix in _FIXES:
        if re.search(pattern, error, re.IGNORECASE):
            return fix
    return "see the log named below; `make down && make up` starts anew"
