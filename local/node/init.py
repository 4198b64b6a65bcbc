"""First process of a node's namespaces: mounts the node's root folder, enters it, and becomes its supervisor.

Runs as `python3 init.py STATE ROOT BIN REGISTRY` in fresh mount, PID, network, UTS and IPC namespaces. Its mounts end
with the mount namespace, so that no mount is left on the machine. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

# Kubelet sets these for the whole machine. In the node, plain files with the wanted values replace them, so that the
# machine's own do not change (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
_KERNEL_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def main(state: Path, lower: Path, programs: Path, registry: Path) -> None:
    """Mounts, enters the new root and becomes its supervisor; never returns."""
    # /proc is still the machine's, so this is the process's PID on the machine.
    (state / "init.pid").write_text(os.readlink("/proc/self"))
    subprocess.run(["hostname", "node"], check=True)
    root = state / "root"
    _mount_root(state, lower)
    unified = _mount_kernel_file_systems(root)
    _mount_folders(state, programs, registry)
    _shield_kernel_tunables(root)
    _complete_cpuinfo(root)
    _choose_iptables(root)
    # slirp4netns answers DNS at this address by the machine's own resolver.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n10.0.2.100 node\n")
    _enter(root)
    environment = {"PATH": "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    environment["FUTURE_KUBERNETES_PATIENCE"] = os.environ.get("FUTURE_KUBERNETES_PATIENCE", "")
    cgroup = "/" if unified else f"/future-kubernetes-{state.name}"
    os.chdir("/opt")  # folder of the package `node`
    os.execve("/usr/bin/python3", ["python3", "-m", "node.supervisor", cgroup], environment)  # noqa: S606


def _mount_root(state: Path, lower: Path) -> None:
    """Mounts an overlay, so that `lower` stays as it is, and makes the folders of the data of this cluster."""
    for folder in ("upper", "work", "root", "var/kubelet", "var/containerd", "var/etcd", "var/pki", "var/volumes"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={lower},upperdir={state / 'upper'},workdir={state / 'work'}"
    _mount("-t", "overlay", "overlay", "-o", layers, str(state / "root"))


def _mount_kernel_file_systems(root: Path) -> bool:
    """Mounts /proc, /sys, /dev and the temporary folders; returns True on a machine with cgroup v2."""
    _mount("-t", "proc", "proc", f"{root}/proc")
    _mount("--rbind", "/sys", f"{root}/sys")
    # On cgroup v2 this process is in a cgroup namespace: a new mount shows only the cluster's own groups.
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    unified = ["/sys/fs/cgroup", "cgroup2"] in mounts
    if unified:
        subprocess.run(["umount", f"{root}/sys/fs/cgroup"], check=True)
        _mount("-t", "cgroup2", "cgroup2", f"{root}/sys/fs/cgroup")
    _mount("--rbind", "/dev", f"{root}/dev")
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", f"{root}/run")
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/tmp")  # noqa: S108
    (root / "run" / "lock").mkdir()
    return unified


def _mount_folders(state: Path, programs: Path, registry: Path) -> None:
    """Binds the data of the cluster, the image registry, the programs and this package into the root."""
    # An overlay cannot be the upper layer of another, so containers' layers are in a folder on the machine's disk.
    for source, target in (
        (state / "var/kubelet", "var/lib/kubelet"),
        (state / "var/containerd", "var/lib/containerd"),
        (state / "var/etcd", "var/lib/etcd"),
        (state / "var/pki", "var/lib/pki"),
        (state / "var/volumes", "var/lib/volumes"),
        (registry, "var/lib/registry"),
        (programs, "opt/bin"),
        (Path(__file__).parent, "opt/node"),
    ):
        place = state / "root" / target
        place.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(source), str(place))


def _shield_kernel_tunables(root: Path) -> None:
    """Binds plain files over the settings of the kernel that kubelet would change for the whole machine."""
    for name, value in _KERNEL_TUNABLES.items():
        if (root / "proc/sys" / name).exists():
            stand_in = root / "run" / name.replace("/", ".")
            stand_in.write_text(value)
            _mount("--bind", str(stand_in), f"{root}/proc/sys/{name}")


def _complete_cpuinfo(root: Path) -> None:
    """Binds a copy of /proc/cpuinfo with a clock speed over one that has none, as of user-mode Linux.

    kubelet does not start without it on x86_64 (GetClockSpeed in google/cadvisor), and only reports it.
    """
    text = (root / "proc/cpuinfo").read_text()
    if os.uname().machine == "x86_64" and not re.search(r"(?:cpu MHz|CPU MHz|clock)\s*:\s*[0-9]+\.[0-9]+", text):
        completed = root / "run/cpuinfo"
        completed.write_text(re.sub(r"(?m)^processor\s*:.*$", r"\g<0>\ncpu MHz\t\t: 1000.000", text))
        _mount("--bind", str(completed), f"{root}/proc/cpuinfo")


def _choose_iptables(root: Path) -> None:
    """Makes `iptables` the legacy program where the kernel has no nf_tables for IPv4, which Debian's default needs."""

    def works(program: str) -> bool:
        # Without nf_tables for IPv4 the list of rules still succeeds; only a change fails. This is the node's network.
        for action in ("--new-chain=probe", "--delete-chain=probe"):
            command = ["chroot", str(root), program, "--wait", "--table=nat", action]
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                return False
        return True

    if works("iptables-nft") or not works("iptables-legacy"):
        return
    for family in ("iptables", "ip6tables"):
        for action in ("", "-save", "-restore"):
            link = root / "etc/alternatives" / f"{family}{action}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"/usr/sbin/{family}-legacy{action}")


def _enter(root: Path) -> None:
    """Makes `root` the root of this mount namespace, and unmounts the machine's."""
    (root / "oldroot").mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], os.fsencode(root), os.fsencode(root / "oldroot")) != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/oldroot"], check=True)
    subprocess.run(["mount", "--make-rshared", "/"], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
