"""Starts the node's namespaces and its network. The shim is a cluster's only process outside of them.

Runs as `python -m local.shim CLUSTER`. When the shim ends, the node ends: with its first process the kernel kills all
processes of the node's PID namespace, and removes mounts, devices and firewall rules with their namespaces. Outside of
them are the shim, slirp4netns and the cgroups; the shim removes the last two.
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

from common import processes
from common.paths import state_dir
from common.patience import patience
from local.cgroups import NodeGroup, remove

PID_FILE = "shim.pid"
_API_PORT = 6443
_PR_SET_PDEATHSIG = 1
_CLEANUP_SECONDS = 20.0


def main(cluster: str) -> int:
    """Keeps the cluster's node running until SIGTERM, or until the node ends."""
    state = state_dir(cluster)
    record(state, os.getpid())
    spec = json.loads((state / "node.json").read_text())
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    groups = NodeGroup(cluster)

    def enter() -> None:
        _die_with_parent()
        groups.enter()

    (state / "init.pid").unlink(missing_ok=True)
    init = Path(__file__).parent / "node" / "init.py"
    node = subprocess.Popen(
        ["unshare", "--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private",
         "--", sys.executable, str(init), str(state), spec["root"], spec["programs"], spec["registry"]],
        preexec_fn=enter,
    )  # fmt: skip
    way_out: subprocess.Popen[bytes] | None = None
    try:
        groups.delegate()  # before the network exists, for which the node's services wait
        while not stopping and node.poll() is None:
            if way_out is None or way_out.poll() is not None:
                way_out = start_slirp(state, spec["apiPort"])
            groups.balance()
            time.sleep(0.05 if way_out is None else 0.5)
        return 0 if stopping else 1
    finally:
        end_node(state, node)
        if way_out is not None:
            way_out.kill()
            way_out.wait()
        if not groups.v2:  # the shim itself is in one of them: systemd removes its scope, otherwise `cluster.stop` does
            remove(cluster)


def record(state: Path, pid: int) -> None:
    """Write which process is the shim. Its parent does at once, and the shim again, in case the parent was killed."""
    process = processes.find(pid)
    if process is not None:
        new = state / f"{PID_FILE}.{os.getpid()}"
        new.write_text(f"{process.pid} {process.start_time}")
        new.rename(state / PID_FILE)


def end_node(state: Path, node: subprocess.Popen[bytes]) -> None:
    """Kills the node's first process; unshare, its parent, ends once the kernel has ended all the others."""
    if node.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((state / "init.pid").read_text()), signal.SIGKILL)
    try:
        node.wait(patience(_CLEANUP_SECONDS))
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_slirp(state: Path, api_port: int) -> subprocess.Popen[bytes] | None:
    """Connects the node by user-mode networking, which needs no firewall rule or device on the machine.

    Pods reach the same addresses as the machine, except its loopback. Returns None until the node exists.
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
    """Makes slirp4netns forward 127.0.0.1:`port` of the machine to the node's API server."""
    request = {
        "execute": "add_hostfwd",
        "arguments": {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": port, "guest_port": _API_PORT},
    }
    deadline = time.monotonic() + patience(15)
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


if __name__ == "__main__":
    if not shutil.which("unshare"):
        sys.exit("unshare (util-linux) is not installed")
    sys.exit(main(sys.argv[1]))
