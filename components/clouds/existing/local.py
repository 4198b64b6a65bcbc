"""The Kubernetes that `make up` starts on this machine, for stack `dev`.

It runs before the program does and is no resource of the stack, so that the program does the same as on any other
existing cluster.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pulumi

from common.kubectl import find_program
from common.paths import kubeconfig_path
from components.clouds.allocatable import Allocatable
from components.clouds.base import PodSize, flat, scheduler_size
from components.clouds.checks import problem
from components.clouds.existing.access import KubeconfigError, read_access
from components.clouds.existing.cluster import ExistingCluster
from components.clouds.existing.home import check_home
from components.clouds.existing.nodes import check_operator, read_nodes
from components.clouds.existing.settings import LocalSettings
from components.clouds.sizing import size_shared

SYSTEM_PODS = (PodSize(300, 1024),)
"""Room for the control plane, DNS and addons. They run as processes, so Kubernetes does not count them."""

UNKNOWN_NODE = Allocatable(2000, 4096)
"""Resources assumed without kubectl: a small laptop's, which keeps requests modest."""


class LocalCluster(ExistingCluster):
    """The one node on this machine. Raises KubeconfigError or SizingError before anything is created."""

    # `make up` watches the pods, and stops the update.
    reports_wait = False

    def __init__(self, name: str, settings: LocalSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:LocalCluster", name, None, opts)
        file = kubeconfig_file(settings)
        access = read_access([file], settings.context)
        nodes = read_nodes(access)
        if nodes == []:
            raise KubeconfigError(problem("the node on this machine is not ready", "a node that is", "make up"))
        if settings.monitoring:
            check_operator(access)
        check_home(access, settings)
        self.home_words = "deleted by pulumi destroy: copy files out first (pulumi stack output copyFrom)"
        free = (nodes or [UNKNOWN_NODE])[0].less(SYSTEM_PODS)
        self.scheduler_size = modest(scheduler_size(settings), free)
        self.worker_size = size_shared(
            max_workers=settings.max_workers,
            free=free,
            scheduler=self.scheduler_size,
            worker_cpu=settings.worker_cpu,
            worker_memory_gib=settings.worker_memory_gib,
        )
        self.use(name, access)
        self.nodes = "1 x this machine"
        self.hourly_cost = flat("$0.00")
        self.kubeconfig_command = f"export KUBECONFIG={shlex.quote(str(file))}"
        self.kubectl = f"{kubectl_for_people()} --kubeconfig {shlex.quote(str(file))}"
        self.node_shell = "bash"
        self.register_outputs({"kubeconfig": self.kubeconfig})


def kubeconfig_file(settings: LocalSettings) -> Path:
    """The kubeconfig of the cluster on this machine. Raises KubeconfigError where it has not been started."""
    chosen = settings.kubeconfig or os.environ.get("FUTURE_KUBERNETES_KUBECONFIG")
    file = Path(chosen).expanduser() if chosen else kubeconfig_path("dev")
    if not file.is_file():
        what = f"Kubernetes on this machine has not been started: there is no {file}"
        raise KubeconfigError(problem(what, "the kubeconfig that make up writes", "make up"))
    return file


def kubectl_for_people() -> str:
    """The kubectl in commands that people paste. Their shell lacks the folder that `make up` adds to PATH."""
    found, own = find_program("kubectl"), os.environ.get("FUTURE_KUBERNETES_BIN", "")
    others = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own)
    return "kubectl" if not found or shutil.which("kubectl", path=others) else shlex.quote(found)


def modest(scheduler: PodSize, free: Allocatable) -> PodSize:
    """The scheduler's requests, cut to a quarter of a small machine; its memory limit stays as asked for."""
    return PodSize(
        min(scheduler.cpu_millicores, max(1, free.cpu_millicores // 4)),
        min(scheduler.memory_mib, max(1, free.memory_mib // 4)),
        scheduler.memory_mib,
    )
