"""Stack `dev`: the Kubernetes that `make up` started on this machine.

The cluster is started before the program runs and is no resource of the stack, so that the program's part is the same
as on any other existing cluster.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pulumi

from common.paths import kubeconfig_path
from components.clouds.base import PodSize
from components.clouds.existing.cluster import (
    KubeconfigCluster,
    KubeconfigError,
    kubectl,
    read_access,
    read_nodes,
    scheduler_size,
)
from components.clouds.existing.settings import LocalSettings
from components.clouds.sizing import Capacity, size_shared

LOCAL_SYSTEM_PODS = (PodSize(300, 1024),)
"""What the control plane, DNS and the other addons take: they run as processes, of which Kubernetes knows nothing."""


@dataclass(frozen=True)
class LocalClusterArgs:
    """What the component needs. worker_cpu (cores) and worker_memory_gib are None where workers share the machine."""

    kubeconfig: Path
    scheduler: PodSize
    max_workers: int
    worker_cpu: float | None = None
    worker_memory_gib: float | None = None
    context: str | None = None

    @classmethod
    def from_settings(cls, settings: LocalSettings) -> LocalClusterArgs:
        """The arguments that a stack's settings stand for."""
        chosen = settings.kubeconfig or os.environ.get("FUTURE_KUBERNETES_KUBECONFIG")
        return cls(
            kubeconfig=Path(chosen).expanduser() if chosen else kubeconfig_path("dev"),
            scheduler=scheduler_size(settings),
            max_workers=settings.max_workers,
            worker_cpu=settings.worker_cpu,
            worker_memory_gib=settings.worker_memory_gib,
            context=settings.context,
        )


class LocalCluster(KubeconfigCluster):
    """The one node on this machine. Raises KubeconfigError or SizingError before anything is registered."""

    def __init__(self, name: str, settings: LocalSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super(KubeconfigCluster, self).__init__("future-kubernetes:index:LocalCluster", name, None, opts)
        args = LocalClusterArgs.from_settings(settings)
        if not args.kubeconfig.is_file():
            raise KubeconfigError(
                f"Kubernetes on this machine has not been started: there is no {args.kubeconfig}\n    fix: make up"
            )
        access = read_access([args.kubeconfig], args.context)
        nodes = read_nodes(access)
        if nodes == []:
            raise KubeconfigError("the node on this machine is not ready\n    fix: make up")
        # Without kubectl nothing is known of the node; a laptop's worth of room keeps requests modest.
        free = (nodes or [Capacity(2000, 4096)])[0].less(LOCAL_SYSTEM_PODS)
        self.scheduler_size = modest(args.scheduler, free)
        self.worker_size = size_shared(
            max_workers=args.max_workers,
            free=free,
            scheduler=self.scheduler_size,
            worker_cpu=args.worker_cpu,
            worker_memory_gib=args.worker_memory_gib,
        )
        self.use(name, access)
        self.nodes = "1 x this machine"
        self.hourly_cost = 0.0
        self.kubeconfig_command = f"export KUBECONFIG={shlex.quote(str(args.kubeconfig))}"
        # `make up` adds its own programs to PATH, which the shell that these commands are pasted into lacks.
        found, own = kubectl(), os.environ.get("FUTURE_KUBERNETES_BIN", "")
        others = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own)
        program = "kubectl" if not found or shutil.which("kubectl", path=others) else shlex.quote(found)
        self.kubectl = f"{program} --kubeconfig {shlex.quote(str(args.kubeconfig))}"
        self.node_shell = "bash"
        self.register_outputs({"kubeconfig": self.kubeconfig})


def modest(scheduler: PodSize, free: Capacity) -> PodSize:
    """The scheduler's requests, cut to a quarter of a small machine; its memory limit stays as asked for."""
    return PodSize(
        min(scheduler.cpu_millicores, max(1, free.cpu_millicores // 4)),
        min(scheduler.memory_mib, max(1, free.memory_mib // 4)),
        scheduler.memory_mib,
    )
