"""An existing cluster, reached by a kubeconfig: one on campus, on Azure, or one that another stack made.

Nothing of the cluster itself is managed. What can be known of it before anything is created is asked through `kubectl`:
whether it answers, and whether its nodes can hold a worker.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes
import yaml

from components.clouds.base import GUEST_PLACEMENT, WORKER_NODE_LABEL, WORKER_TAINT, Cluster, PodSize
from components.clouds.existing.settings import KubeconfigSettings
from components.clouds.sizing import Capacity
from components.settings.model import Settings

DEFAULT_WORKER = PodSize(900, 2048)
"""Requests of a worker on a cluster whose nodes are of unknown kinds: a core less what nodes reserve, and 2 GiB."""


class KubeconfigError(pulumi.RunError):
    """A kubeconfig, context or cluster that cannot be used."""


@dataclass(frozen=True)
class Access:
    """One context of a kubeconfig, whole in itself: files that it named are inlined."""

    context: str
    server: str
    config: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The kubeconfig as JSON, which is YAML too. The same config gives the same text."""
        return json.dumps(self.config, sort_keys=True)

    @property
    def identity(self) -> str:
        """The same for as long as it is the same cluster: its address and its certificate authority."""
        cluster = self.config["clusters"][0]["cluster"]
        known = f"{cluster.get('server')}\n{cluster.get('certificate-authority-data', '')}"
        return hashlib.sha256(known.encode()).hexdigest()[:16]


def shell_path(path: str) -> str:
    """A path for a shell, as it was given: quoted, but for a leading `~/`, which is each reader's own home."""
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + shlex.quote(rest)


def kubeconfig_files(setting: str | None) -> list[Path]:
    """Where kubectl would look: the setting, else $KUBECONFIG (a list of paths), else ~/.kube/config."""
    if setting:
        return [Path(setting).expanduser()]
    listed = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return listed or [Path.home() / ".kube" / "config"]


def read_access(files: Sequence[Path], context: str | None = None) -> Access:
    """One context out of the given kubeconfig files, the first to name a thing winning, as in kubectl.

    Raises KubeconfigError where there is no file, no such context (naming those that there are), or a credential that
    it needs is missing.
    """
    present = [path for path in files if path.is_file()]
    if not present:
        raise KubeconfigError(
            f"there is no kubeconfig at {', '.join(map(str, files))}\n"
            "    fix: pulumi config set kubeconfig PATH, or get credentials for the cluster first"
        )
    return access_of([(load_yaml(path), path.parent) for path in present], ", ".join(map(str, present)), context)


def text_access(text: str, context: str | None = None) -> Access:
    """One context out of a kubeconfig's text, whose relative paths mean what they would in ~/.kube/config.

    Raises KubeconfigError as `read_access` does.
    """
    where = "kubeconfigText"
    return access_of([(parse_yaml(text, where), Path.home() / ".kube")], where, context)


def access_of(loaded: Sequence[tuple[Mapping[str, Any], Path]], where: str, context: str | None) -> Access:
    """One context out of kubeconfigs, each with the folder that its paths start from. where: what to call them."""
    merged: dict[str, dict[str, Any]] = {"contexts": {}, "clusters": {}, "users": {}}
    current = None
    for content, folder in loaded:
        current = current or content.get("current-context")
        for kind, single in (("contexts", "context"), ("clusters", "cluster"), ("users", "user")):
            for entry in content.get(kind) or []:
                merged[kind].setdefault(entry.get("name"), inlined(entry.get(single) or {}, folder))
    name = context or current
    if name not in merged["contexts"]:
        there = ", ".join(sorted(merged["contexts"])) or "none"
        given = f"context {name!r} is not in {where}" if name else f"{where} has no current context"
        first = next(iter(sorted(merged["contexts"])), "NAME")
        raise KubeconfigError(f"{given}\n    allowed: {there}\n    fix:     pulumi config set context {first}")
    chosen = merged["contexts"][name]
    cluster, user = merged["clusters"].get(chosen.get("cluster")), merged["users"].get(chosen.get("user"), {})
    if not cluster or not cluster.get("server"):
        raise KubeconfigError(
            f"context {name!r} in {where} names a cluster without an address: {chosen.get('cluster')!r}"
        )
    check_exec_plugin(user, where)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {**chosen, "cluster": name, "user": name}}],
        "current-context": name,
    }
    return Access(str(name), str(cluster["server"]), config)


def load_yaml(path: Path) -> dict[str, Any]:
    """A kubeconfig file as a map."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"{path} cannot be read as a kubeconfig: {type(error).__name__}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """A kubeconfig's text as a map; no message repeats any of it."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{where} cannot be read as a kubeconfig: {type(error).__name__}") from None
    if not isinstance(loaded, dict):
        raise KubeconfigError(f"{where} is not a kubeconfig: it holds no map of clusters, users and contexts")
    return loaded


def inlined(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`entry` with the content of certificate and key files in place of their paths, which are relative to `folder`."""
    whole = dict(entry)
    for key in ("certificate-authority", "client-certificate", "client-key"):
        if key in whole:
            path = folder / Path(whole.pop(key)).expanduser()
            try:
                whole.setdefault(f"{key}-data", base64.b64encode(path.read_bytes()).decode())
            except OSError as error:
                raise KubeconfigError(f"the kubeconfig names {path} as its {key}: {error.strerror}") from None
    return whole


def check_exec_plugin(user: Mapping[str, Any], where: str) -> None:
    """Raises KubeconfigError where the program that fetches credentials is not installed."""
    plugin = user.get("exec") or {}
    command = plugin.get("command")
    if command and not shutil.which(command):
        hint = plugin.get("installHint") or f"install {command} and have it on PATH"
        raise KubeconfigError(f"{where} gets credentials from {command!r}, which is not installed\n    fix: {hint}")


def kubectl() -> str | None:
    """The kubectl to ask with: in $FUTURE_KUBERNETES_BIN, else on PATH; None where there is none."""
    folder = os.environ.get("FUTURE_KUBERNETES_BIN")
    return (shutil.which("kubectl", path=folder) if folder else None) or shutil.which("kubectl")


def read_nodes(access: Access) -> list[Capacity] | None:
    """What pods can have of each node that workers may go to; None where nobody can say.

    That is without a kubectl, without the right to ask, and while another stack's pool of workers has no node.
    Raises KubeconfigError where the cluster does not answer or refuses the credentials.
    """
    program = kubectl()
    if program is None:
        return None
    # A file of mode 0600 rather than standard input: kubectl reads a kubeconfig more than once.
    with tempfile.NamedTemporaryFile("w", prefix="kubeconfig-") as file:
        file.write(access.text)
        file.flush()
        command = [program, "--kubeconfig", file.name, "--request-timeout=8s", "get", "nodes", "--output", "json"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            raise KubeconfigError(unreachable(access, "no answer within 30 s")) from None
    if answer.returncode == 0:
        nodes = json.loads(answer.stdout)["items"]
        usable = [node for node in nodes if is_schedulable(node)]
        if not usable and any(is_system(node) for node in nodes):
            return None
        return [node_capacity(node) for node in usable]
    if "forbidden" in answer.stderr.lower():
        return None
    lines = [line for line in answer.stderr.strip().splitlines() if line.strip()]
    raise KubeconfigError(unreachable(access, lines[-1] if lines else f"kubectl exited with {answer.returncode}"))


def unreachable(access: Access, reason: str) -> str:
    """What to say of a cluster that does not answer."""
    return (
        f"the cluster of context {access.context!r} at {access.server} cannot be used: {reason}\n"
        f"    fix: see that `kubectl --context {shlex.quote(access.context)} get nodes` works, then run again"
    )


def is_system(node: Mapping[str, Any]) -> bool:
    """Whether a node is one of the system nodes that another stack of this program made."""
    return bool(node.get("metadata", {}).get("labels", {}).get(WORKER_NODE_LABEL) == "system")


def is_schedulable(node: Mapping[str, Any]) -> bool:
    """Whether workers may go to a node, by `GUEST_PLACEMENT`: not cordoned, ready, no taint that keeps them off."""
    spec = node.get("spec", {})
    tainted = any(
        taint.get("effect") in ("NoSchedule", "NoExecute") and taint.get("key") != WORKER_TAINT["key"]
        for taint in spec.get("taints", [])
    )
    conditions = {entry["type"]: entry["status"] for entry in node.get("status", {}).get("conditions", [])}
    return not (spec.get("unschedulable") or tainted or is_system(node)) and conditions.get("Ready") == "True"


UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def quantity(text: str) -> float:
    """A Kubernetes quantity (`3920m`, `16Gi`, `4`) as a number of cores, bytes or things."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def node_capacity(node: Mapping[str, Any]) -> Capacity:
    """What pods can have of a node, from its own report."""
    allocatable = node["status"]["allocatable"]
    return Capacity(
        cpu_millicores=int(quantity(allocatable["cpu"]) * 1000 + 1e-6),
        memory_mib=int(quantity(allocatable["memory"]) / 2**20),
        pods=int(quantity(allocatable.get("pods", "110"))),
    )


def check_fit(nodes: Sequence[Capacity], worker: PodSize, workers: int) -> str | None:
    """Raises KubeconfigError where no node can hold one worker; returns a warning where not all fit today.

    That is no error, since the cluster may have an autoscaler, and other pods may go. Pods that are there already are
    not counted: seeing them takes rights that a user of a shared cluster seldom has.
    """
    most = max(nodes, key=lambda node: node.count(worker), default=Capacity(0, 0, 0))
    if not most.count(worker):
        largest = max(nodes, key=lambda node: (node.cpu_millicores, node.memory_mib), default=Capacity(0, 0, 0))
        wish = f"{worker.cpu_millicores / 1000:g} cores and {worker.memory_mib / 1024:g} GiB"
        raise KubeconfigError(
            f"no node can hold a worker of {wish}: of the largest of {len(nodes)} ready nodes, pods can have "
            f"{largest.cpu_millicores / 1000:g} cores and {largest.memory_mib / 1024:.1f} GiB\n"
            f"    fix: pulumi config set workerCpu {largest.cpu_millicores / 2000:g} && "
            f"pulumi config set workerMemoryGiB {largest.memory_mib / 2048:.1f}"
        )
    room = sum(node.count(worker) for node in nodes)
    if room < workers:
        return f"the ready nodes have room for {room} of {workers} workers, unless the cluster adds nodes"
    return None


@dataclass(frozen=True)
class KubeconfigClusterArgs:
    """What the component needs; `kubeconfig` and `context` as in the settings, None for kubectl's own choice.

    text: a kubeconfig itself, in place of a path.
    """

    stack: str
    worker: PodSize
    scheduler: PodSize
    workers: int
    kubeconfig: str | None = None
    text: str | None = field(default=None, repr=False)
    context: str | None = None

    @classmethod
    def from_settings(cls, settings: KubeconfigSettings) -> KubeconfigClusterArgs:
        """The arguments that a stack's settings stand for."""
        return cls(
            stack=settings.stack,
            worker=PodSize(
                round(settings.worker_cpu * 1000) if settings.worker_cpu else DEFAULT_WORKER.cpu_millicores,
                round(settings.worker_memory_gib * 1024) if settings.worker_memory_gib else DEFAULT_WORKER.memory_mib,
            ),
            scheduler=scheduler_size(settings),
            workers=settings.workers,
            kubeconfig=settings.kubeconfig,
            text=settings.kubeconfig_text.get_secret_value() if settings.kubeconfig_text else None,
            context=settings.context,
        )


def scheduler_size(settings: Settings) -> PodSize:
    """Requests of the scheduler as the settings have them."""
    return PodSize(round(settings.scheduler_cpu * 1000), round(settings.scheduler_memory_gib * 1024))


class KubeconfigCluster(Cluster):
    """A cluster that is there already. Raises KubeconfigError before anything is registered where it cannot be used."""

    def __init__(self, name: str, settings: KubeconfigSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:KubeconfigCluster", name, None, opts)
        args = KubeconfigClusterArgs.from_settings(settings)
        if args.text:
            access = text_access(args.text, args.context)
        else:
            access = read_access(kubeconfig_files(args.kubeconfig), args.context)
        nodes = read_nodes(access)
        if nodes is None:
            pulumi.log.info("no node that workers may go to can be read, so whether they fit is not checked", self)
        else:
            warning = check_fit(nodes, args.worker, args.workers)
            if warning:
                pulumi.log.warn(warning, self)
        self.use(name, access)
        self.worker_placement = GUEST_PLACEMENT
        self.worker_size = args.worker
        self.scheduler_size = args.scheduler
        self.nodes = "an existing cluster" if nodes is None else f"{len(nodes)} ready nodes of an existing cluster"
        # Without the setting kubectl finds the file by itself, as this program did.
        path = f"~/.kube/{name}" if args.text else args.kubeconfig
        file = f"--kubeconfig {shell_path(path)} " if path else ""
        self.kubeconfig_command = f"kubectl {file}config use-context {shlex.quote(access.context)}"
        if args.text:
            output = f"pulumi stack output kubeconfig --show-secrets --stack {shlex.quote(args.stack)}"
            self.kubeconfig_command = f"mkdir -p ~/.kube && (umask 077 && {output} > {path})"
        self.kubectl = f"kubectl {file}--context {shlex.quote(access.context)}"
        self.node_shell = f"{self.kubectl} debug node/NODE --stdin --tty --image=busybox"
        self.register_outputs({"kubeconfig": self.kubeconfig})

    def use(self, name: str, access: Access) -> None:
        """The Kubernetes provider for `access`."""
        self.kubeconfig = pulumi.Output.secret(access.text)
        self.provider = kubernetes.Provider(
            name,
            kubeconfig=self.kubeconfig,
            cluster_identifier=access.identity,
            opts=pulumi.ResourceOptions(parent=self),
        )
