"""Creates the control groups of a cluster, moves the node into them, and removes them.

Layout on cgroup v2, below one folder of the cluster:

    services/    the shim and the node's services
    kubepods/    made by kubelet, holds the pods

With systemd that folder is a delegated scope, `future-kubernetes-NAME.scope`: systemd owns the tree and gives a
controller only to groups that ask for it (https://systemd.io/CGROUP_DELEGATION/). Without systemd it is a folder at
the top of the tree. The node sees its folder as the whole tree, by a cgroup namespace, so kubelet asks only for
controllers that the folder has. On cgroup v1 the same folder exists once in each hierarchy, and there is no namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path

from common.paths import state_dir
from common.patience import patience

ROOT = Path("/sys/fs/cgroup")
SYSTEMD = Path("/run/systemd/system")
"""Exists where systemd is the first process, see sd_booted(3)."""

NEEDED = ("cpu", "memory", "pids")
"""Controllers without which limits of pods do not hold."""

WANTED = (*NEEDED, "cpuset", "io", "hugetlb")
"""Enabled for the pods where the machine has them; a kernel for one processor has no cpuset."""

_CLEANUP_SECONDS = 20.0
_CLONE_NEWCGROUP = 0x02000000
_PODS_TO_SERVICES = 8
"""Weight of all pods together, as a multiple of the weight of the services."""

_SHARES_A_CORE = 1024
"""Shares (cgroup v1) per core that kubelet gives to all pods together."""


def is_v2(mounts: str | None = None) -> bool:
    """Return True if the machine has only the unified hierarchy, judged as by kubelet: by the mount at the top."""
    lines = (Path("/proc/mounts").read_text() if mounts is None else mounts).splitlines()
    return any(line.split()[1:3] == [str(ROOT), "cgroup2"] for line in lines)


def problems() -> list[str]:
    """Return the reasons why this machine's control groups cannot hold a node, each with its fix."""
    tops = [ROOT] if is_v2() else sorted(_v1_hierarchies())
    if not tops:
        return ["no cgroup hierarchy is mounted; mount one at /sys/fs/cgroup"]
    locked = [str(top) for top in tops if _read_only(top) or not os.access(top, os.W_OK)]
    if locked:
        return [
            f"{', '.join(locked)} {'is' if len(locked) == 1 else 'are'} read-only, as in a container; use a machine or "
            "a virtual machine, or give the container `--privileged --cgroupns=host`"
        ]
    if not is_v2():
        return []
    missing = [name for name in NEEDED if name not in _words(ROOT / "cgroup.controllers")]
    if missing:
        return [
            f"the kernel offers no cgroup controller {', '.join(missing)} (it offers: "
            f"{' '.join(_words(ROOT / 'cgroup.controllers')) or 'none'}); take `cgroup_disable=` off the kernel's "
            "command line, or unmount the cgroup v1 hierarchies that hold it"
        ]
    if not SYSTEMD.exists():
        idle = [name for name in NEEDED if name not in _words(ROOT / "cgroup.subtree_control")]
        # Only the true root may hold processes and enable controllers; it has no cgroup.type (cgroups(7)).
        if idle and (ROOT / "cgroup.type").exists() and _words(ROOT / "cgroup.procs"):
            return [
                f"the top control group of this container holds processes, so {', '.join(idle)} cannot be enabled "
                "below it; start the container with `--privileged --cgroupns=host`"
            ]
    return []


def launcher(cluster: str) -> list[str]:
    """Return the prefix of the shim's command that starts it in a delegated scope; [] without systemd."""
    if not (is_v2() and SYSTEMD.exists() and shutil.which("systemd-run")):
        return []
    return [
        "systemd-run", "--scope", "--quiet", "--collect", f"--unit={_unit(cluster)}", "--slice=system.slice",
        f"--description=Kubernetes of future-kubernetes ({cluster})",
        "--property=Delegate=yes",
        # systemd's default limit of threads is a share of the machine's; 40 workers start thousands.
        "--property=TasksMax=infinity",
        "--",
    ]  # fmt: skip


class NodeGroup:
    """The cluster's control groups, as its shim creates and fills them."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self.v2 = is_v2()
        self.folders = [_own_scope(cluster) or ROOT / _name(cluster)] if self.v2 else _v1_folders(cluster)
        if self.v2 and self.folders[0].parent == ROOT:
            remove(cluster)  # left by a killed shim; a group with enabled controllers accepts no process
        for folder in self.folders:
            folder.mkdir(exist_ok=True)
            if self.v2 or (folder / "cpu.shares").exists():
                (folder / "services").mkdir(exist_ok=True)
            if not self.v2 and (folder / "cpu.shares").exists():
                shares = _SHARES_A_CORE * (os.cpu_count() or 1) // _PODS_TO_SERVICES
                (folder / "services/cpu.shares").write_text(str(shares))

    def enter(self) -> None:
        """Move the calling process to the services; on v2 also into a namespace whose root is the cluster's folder."""
        if not self.v2:
            self._join_services()
            return
        # The root of a new namespace is the group of the calling process, so the process enters the folder first.
        (self.folders[0] / "cgroup.procs").write_text(str(os.getpid()))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWCGROUP) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")
        self._join_services()

    def delegate(self) -> None:
        """Give the pods their controllers (v2). Called once the node's first process has entered.

        A group with processes of its own cannot enable controllers for others, so the shim joins the services first.
        """
        if not self.v2:
            return
        self._join_services()
        folder = self.folders[0]
        if folder.parent == ROOT:
            offered = _words(ROOT / "cgroup.controllers")
            idle = set(_words(ROOT / "cgroup.subtree_control"))
            added = [name for name in WANTED if name in offered and name not in idle]
            (state_dir(self._cluster) / "controllers").write_text(" ".join(added))
            _enable(ROOT, added)
        _enable(folder, [name for name in WANTED if name in _words(folder / "cgroup.controllers")])

    def balance(self) -> None:
        """Keep the services' weight at an eighth of the pods', which kubelet sets once it runs (v2).

        Pods have priority: otherwise R in running pods would wait while 40 others start. The cluster as a whole keeps
        the default weight, so that busy workers do not slow down the machine's other work.
        """
        if not self.v2:
            return
        with contextlib.suppress(OSError, ValueError):
            pods = int((self.folders[0] / "kubepods/cpu.weight").read_text())
            services = self.folders[0] / "services/cpu.weight"
            wanted = max(1, pods // _PODS_TO_SERVICES)
            if int(services.read_text()) != wanted:
                services.write_text(str(wanted))

    def _join_services(self) -> None:
        for folder in self.folders:
            if (folder / "services").exists():
                (folder / "services/cgroup.procs").write_text(str(os.getpid()))


def folders(cluster: str) -> list[Path]:
    """Return the cluster's control groups that exist on the machine."""
    named = [ROOT / _name(cluster), ROOT / "system.slice" / _unit(cluster)] if is_v2() else _v1_folders(cluster)
    return [folder for folder in named if folder.exists()]


def remove(cluster: str) -> None:
    """Remove the cluster's control groups, deepest first, once the kernel has emptied them."""
    if (ROOT / "system.slice" / _unit(cluster)).exists() and shutil.which("systemctl"):
        subprocess.run(["systemctl", "stop", _unit(cluster)], capture_output=True, timeout=patience(60), check=False)
    deadline = time.monotonic() + patience(_CLEANUP_SECONDS)
    while left := folders(cluster):
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            print(f"still in use: {', '.join(map(str, left))}", flush=True)
            break
        if folders(cluster):
            time.sleep(0.1)
    record = state_dir(cluster) / "controllers"
    if record.exists():
        for name in record.read_text().split():
            with contextlib.suppress(OSError):  # another group uses the controller by now
                (ROOT / "cgroup.subtree_control").write_text(f"-{name}")
        record.unlink()


def _name(cluster: str) -> str:
    return f"future-kubernetes-{cluster}"


def _unit(cluster: str) -> str:
    return f"{_name(cluster)}.scope"


def _own_scope(cluster: str) -> Path | None:
    """Return the scope in which systemd-run started the calling process, if any."""
    path = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
    folder = ROOT / path.lstrip("/")
    return folder if folder.name == _unit(cluster) else None


def _v1_hierarchies() -> set[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return {Path(mount[1]) for mount in mounts if mount[2].startswith("cgroup")}


def _v1_folders(cluster: str) -> list[Path]:
    return sorted(hierarchy / _name(cluster) for hierarchy in _v1_hierarchies())


def _enable(folder: Path, controllers: list[str]) -> None:
    for name in controllers:
        (folder / "cgroup.subtree_control").write_text(f"+{name}")


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
