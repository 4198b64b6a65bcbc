"""The one process of a cluster that runs beside it on the machine: starts the node's namespaces and its way out.

Runs as `python -m local.keeper CLUSTER`. Ending it ends the node: the kernel kills all in the node's PID namespace with
its first process, and mounts, devices and firewall rules go with their namespaces. What lies outside of them is this
process, slirp4netns and the cgroups, and it takes the last two along.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from common.paths import state_dir

_API_PORT = 6443
_PR_SET_PDEATHSIG = 1
_CLEANUP_SECONDS = 20.0
_SHARES_OF_SERVICES_A_CORE = 128
"""Against the 1,024 a core that kubelet gives to all pods together: an eighth of it."""


def main(cluster: str) -> int:
    """Keeps the cluster's node until told to stop (SIGTERM) or until the node ends."""
    state = state_dir(cluster)
    spec = json.loads((state / "node.json").read_text())
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    make_cgroups(cluster)

    def enter() -> None:
        _die_with_parent()
        join_services_cgroup(cluster)

    (state / "init.pid").unlink(missing_ok=True)
    boot = Path(__file__).parent / "node" / "boot.py"
    node = subprocess.Popen(
        ["unshare", "--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private",
         "--", sys.executable, str(boot), str(state), spec["root"], spec["programs"], spec["registry"]],
        preexec_fn=enter,
    )  # fmt: skip
    way_out: subprocess.Popen[bytes] | None = None
    try:
        while not stopping and node.poll() is None:
            if way_out is None or way_out.poll() is not None:
                way_out = start_slirp(state, spec["apiPort"])
            time.sleep(0.05 if way_out is None else 0.5)
        return 0 if stopping else 1
    finally:
        end_node(state, node)
        if way_out is not None:
            way_out.kill()
            way_out.wait()
        remove_cgroups(cluster)


def end_node(state: Path, node: subprocess.Popen[bytes]) -> None:
    """Kills the node's first process; unshare, its parent, ends once the kernel has ended all the others."""
    if node.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((state / "init.pid").read_text()), signal.SIGKILL)
    try:
        node.wait(_CLEANUP_SECONDS)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_slirp(state: Path, api_port: int) -> subprocess.Popen[bytes] | None:
    """Lays the node's only way out and in: user-mode networking, which needs no rule or device on the machine.

    Pods reach what the machine reaches, except its loopback. None while the node is not there yet.
    """
    try:
        pid = int((state / "init.pid").read_text())
    except (OSError, ValueError):
        return None
    root = Path(f"/proc/{pid}/root")
    if not (root / "opt/node/supervisor.py").exists() or (root / "oldroot/proc").exists():
        return None
    (root / "run/slirp.sock").unlink(missing_ok=True)
    with (state / "slirp4netns.log").open("ab") as log:
        process = subprocess.Popen(
            ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "slirp4netns", "--configure", "--mtu=65520",
             "--disable-host-loopback", "--api-socket=/run/slirp.sock", "--netns-type=path", "/proc/1/ns/net", "tap0"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent,
        )  # fmt: skip
    forward(root / "run/slirp.sock", api_port, process)
    return process


def forward(api_socket: Path, port: int, process: subprocess.Popen[bytes]) -> None:
    """Makes slirp4netns carry 127.0.0.1:`port` of the machine to the node's API server."""
    request = {
        "execute": "add_hostfwd",
        "arguments": {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": port, "guest_port": _API_PORT},
    }
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(api_socket))
            except OSError:
                time.sleep(0.05)
                continue
            client.sendall(json.dumps(request).encode())
            client.shutdown(socket.SHUT_WR)
            answer = client.makefile().read()
        print(f"slirp4netns: port {port}: {answer.strip()}", flush=True)
        return


def cgroup_folders(cluster: str) -> list[Path]:
    """The cluster's cgroup in each hierarchy of the machine: one on cgroup v2, on v1 one a controller too."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted(
        {Path(mount[1]) / f"future-kubernetes-{cluster}" for mount in mounts if mount[2].startswith("cgroup")}
    )


def make_cgroups(cluster: str) -> None:
    """Kubelet puts its pods below these, and asks that they exist."""
    for folder in cgroup_folders(cluster):
        folder.mkdir(exist_ok=True)


def join_services_cgroup(cluster: str) -> None:
    """Puts this process, and so all that it starts, into a cgroup beside the pods', as a node's services are.

    Else each thread of theirs counts as much as all pods together (cgroup v1): while 40 pods start, R in those that are
    there already waits for the last. Pods come first, and the services, whose work is short, have enough in what is
    left to them. On cgroup v2 the machine's own groups see to it.

    The cluster as a whole keeps the kernel's 1,024. With 8,192, three busy workers on two cores left so little to the
    rest of the machine that Python took up to 32 s to start there, and kubectl as long.
    """
    for folder in cgroup_folders(cluster):
        shares = folder / "cpu.shares"
        if shares.exists():
            services = folder / "services"
            services.mkdir(exist_ok=True)
            (services / "cpu.shares").write_text(str(_SHARES_OF_SERVICES_A_CORE * (os.cpu_count() or 1)))
            (services / "cgroup.procs").write_text(str(os.getpid()))


def remove_cgroups(cluster: str) -> None:
    """Removes the cluster's cgroups, deepest first, once the kernel has emptied them."""
    deadline = time.monotonic() + _CLEANUP_SECONDS
    left = cgroup_folders(cluster)
    while left and time.monotonic() < deadline:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    continue
        left = [top for top in left if top.exists()]
        if left:
            time.sleep(0.1)
    for top in left:
        print(f"{top} is still in use", flush=True)


if __name__ == "__main__":
    if not shutil.which("unshare"):
        sys.exit("unshare (util-linux) is not installed")
    sys.exit(main(sys.argv[1]))
