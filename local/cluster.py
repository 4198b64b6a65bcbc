"""Starts, finds and removes nodes on this machine. Each node is a Kubernetes cluster; several run side by side.

The node's processes run in mount, PID, network, UTS and IPC namespaces of their own. Each uses one
state folder, one cgroup and one loopback port (of the API server) of the machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import processes
from common.errors import UserError
from common.paths import REPO, cache_dir, kubeconfig_path, state_dir
from common.patience import patience
from common.private_files import write_private
from common.progress import Step, step
from local import cgroups, debian_rootfs, go_binaries, machine, shim
from local.node import places as inside
from local.node.supervisor import API_READY

_START_SECONDS = 120.0
_STOP_SECONDS = 40.0


@dataclass(frozen=True)
class Node:
    """A running node: PID of its first process on the machine, its kubeconfig, and the folder of its programs."""

    cluster: str
    pid: int
    kubeconfig: Path
    programs: Path

    def run(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Runs a command inside the node; its output is captured as text, and a failure raises UserError.

        The node has a /run of its own, without the folder of a systemd login. `ctr run` fails where it is named.
        """
        options.setdefault("env", {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"})
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--", *argv]
        return _checked(entered, options)

    def kubectl(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the cluster's administrator; output and failure as with `run`."""
        return _checked([str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *argv], options)


def _checked(argv: list[str], options: dict[str, object]) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        argv, capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise UserError(f"{' '.join(argv)} failed with status {done.returncode}: {done.stderr.strip()[-800:]}")
    return done


def running(cluster: str) -> Node | None:
    """Return the node if its shim is alive, else None."""
    state = state_dir(cluster)
    try:
        spec = json.loads((state / "node.json").read_text())
        pid = int((state / "init.pid").read_text())
    except (OSError, ValueError):
        return None
    if _shim_pid(state) is None or not Path(f"/proc/{pid}/root/run/node/booted").exists():
        return None
    return Node(cluster, pid, kubeconfig_path(cluster), Path(spec["programs"]))


def start(cluster: str) -> Node:
    """Starts the cluster, or brings it up to date where it runs; returns once its node is Ready and DNS answers.

    A cluster that a crash or a reboot ended starts again from its state folder, with all that was in it.
    """
    programs, root = go_binaries.build(go_binaries.NODE), debian_rootfs.ensure(debian_rootfs.NODE_ROOT)
    state = state_dir(cluster)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with go_binaries.exclusive(state.with_suffix(".lock"), f"another start of cluster {cluster}"):
        node = running(cluster)
        with step(f"Starting Kubernetes {go_binaries.KUBERNETES_VERSION} ({cluster})") as progress:
            if node is None:
                # Of a node that crashed, or of a start that was killed before its node had booted.
                _end_shim(state)
                cgroups.remove(cluster)
                node = _launch(cluster, programs, root, progress)
            _write_kubeconfig(node)
            _wait(node, "the API server", lambda: _ready(node, "/readyz"), progress)
            Path(f"/proc/{node.pid}/root{API_READY}").touch()
            node.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPO / "local/node/addons.yaml"))
            _wait(node, "containerd", lambda: _import_pause_image(node), progress)
            _wait(node, "the node", lambda: _node_is_ready(node), progress)
            _wait(node, "DNS", lambda: _dns_answers(node), progress)
    return node


def stop(cluster: str) -> bool:
    """Stops the cluster and deletes its state; returns False if there was none."""
    state = state_dir(cluster)
    if not state.exists():
        return False
    with step(f"Removing cluster {cluster}"):
        _end_shim(state)
        cgroups.remove(cluster)
        shutil.rmtree(state)
        state.with_suffix(".lock").unlink(missing_ok=True)
    return True


def _end_shim(state: Path) -> None:
    """End the shim if it runs, and with it the node."""
    pid = _shim_pid(state)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience(_STOP_SECONDS)
    while _shim_pid(state) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            time.sleep(1)
            break
        time.sleep(0.05)


def _launch(cluster: str, programs: Path, root: Path, progress: Step) -> Node:
    state = state_dir(cluster)
    (state / "init.pid").unlink(missing_ok=True)
    registry = cache_dir() / "registry"
    registry.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    spec = {"programs": str(programs), "root": str(root), "registry": str(registry), "apiPort": port}
    (state / "node.json").write_text(json.dumps(spec))
    with (state / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [*cgroups.launcher(cluster), sys.executable, "-m", "local.shim", cluster],
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    shim.record(state, process.pid)
    deadline = time.monotonic() + patience(_START_SECONDS)
    while (node := running(cluster)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(
                f"The node did not start:\n{_tail(state / 'node.log')}\nThe whole log: {state / 'node.log'}"
            )
        progress.note("preparing the node")
        time.sleep(0.1)
    return node


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_kubeconfig(node: Node) -> None:
    port = json.loads((state_dir(node.cluster) / "node.json").read_text())["apiPort"]

    def encoded(name: str) -> str:
        return base64.b64encode(Path(f"/proc/{node.pid}/root{inside.PKI}/{name}").read_bytes()).decode()

    name = f"future-kubernetes-{node.cluster}"
    server = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": encoded("ca.crt")}
    user = {"client-certificate-data": encoded("admin.crt"), "client-key-data": encoded("admin.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    write_private(node.kubeconfig, json.dumps(content, indent=2))


def _wait(node: Node, what: str, done: object, progress: Step) -> None:
    assert callable(done)
    deadline = time.monotonic() + patience(_START_SECONDS)
    while not done():
        if running(node.cluster) is None:
            raise UserError(f"The node ended:\n{_tail(state_dir(node.cluster) / 'node.log')}")
        run_folder = Path(f"/proc/{node.pid}/root/run/node")
        logs = state_dir(node.cluster) / "upper/var/log/node"
        if reason := machine.hopeless(run_folder):
            raise UserError(f"Kubernetes cannot start: {reason}\n    log:     {logs}")
        if time.monotonic() > deadline:
            ended = [f"  {name} ended {count} times: {error}" for name, count, error in machine.endings(run_folder)]
            raise UserError(
                f"Waited {patience(_START_SECONDS):.0f} s for {what}.\n" + "\n".join(ended) + f"\n    log:     {logs}\n"
                "    fix:     make down && make up; on a slow machine with FUTURE_KUBERNETES_PATIENCE=10"
            )
        progress.note(f"waiting for {what}")
        time.sleep(patience(0.2))


def _ready(node: Node, path: str) -> bool:
    try:
        return node.kubectl("get", "--raw", path, f"--request-timeout={patience(5):.0f}s").stdout == "ok"
    except UserError:
        return False


def _node_is_ready(node: Node) -> bool:
    """Return True once the node is Ready and without the taint that the controller removes a moment later."""
    found = json.loads(node.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    return any(
        not item["spec"].get("taints")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
        for item in found
    )


def _dns_answers(node: Node) -> bool:
    try:
        node.run("busybox", "nslookup", "kubernetes.default.svc.cluster.local", inside.NODE_IP)
    except UserError:
        return False
    return True


def _import_pause_image(node: Node) -> bool:
    """Imports the image that no registry serves: each pod's pause container, and the storage provisioner's helper."""
    try:
        if inside.PAUSE_IMAGE in node.run("ctr", "-n", "k8s.io", "images", "list", "-q").stdout:
            return True
        archive = state_dir(node.cluster) / "root-image.tar"
        archive.write_bytes(_busybox_image(Path(f"/proc/{node.pid}/root/usr/bin/busybox").read_bytes()))
        Path(f"/proc/{node.pid}/root/run/node/pause.tar").write_bytes(archive.read_bytes())
        archive.unlink()
        node.run("ctr", "-n", "k8s.io", "images", "import", "/run/node/pause.tar")
        node.run("rm", "/run/node/pause.tar")
    except UserError:
        return False
    return True


def _busybox_image(busybox: bytes) -> bytes:
    """A docker-archive (github.com/moby/docker-image-spec) of a static busybox that sleeps until it is ended."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for folder in ("bin", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(busybox), 0o755
        archive.addfile(entry, io.BytesIO(busybox))
        for applet in ("sh", "mkdir", "rm", "sleep"):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = json.dumps({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sh", "-c", "trap exit TERM INT; while :; do sleep 86400 & wait $!; done"],
                   "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [inside.PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _shim_pid(state: Path) -> int | None:
    """Return the shim's PID if that process is still the one that was started."""
    try:
        pid, started = (state / shim.PID_FILE).read_text().split()
    except (OSError, ValueError):
        return None
    process = processes.find(int(pid))
    return process.pid if process and process.start_time == started else None


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
