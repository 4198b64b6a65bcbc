"""The base of clusters that the stack creates on Google Cloud and AWS: from running nodes to the release.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds.base import WORKER_NODE_LABEL, WORKER_TOLERATION, Cluster, Placement, scheduler_size
from components.clouds.home import home_words
from components.clouds.ingress import PublicIngress, PublicIngressArgs
from components.clouds.settings import ManagedSettings
from components.clouds.sizing import WorkerPool
from components.dynamic.destroy_guard import DestroyGuard

SYSTEM_PLACEMENT = Placement(node_selector={WORKER_NODE_LABEL: "system"})
"""Placement of the scheduler: on the system node, so that it survives while worker nodes come and go."""

WORKER_PLACEMENT = Placement(node_selector={WORKER_NODE_LABEL: "worker"}, tolerations=(WORKER_TOLERATION,))


WORKER_DISK_GIB, SCHEDULER_DISK_GIB = 3, 6
"""Requests for files on the disk of a node. Without requests the files of one worker fill the disk, and Kubernetes ends
any pod of the node. With them it ends first those that use more. Each cloud's disks have room for the requests."""


class ManagedCluster(Cluster):
    """A cluster that the stack creates and deletes, with one system node and a pool of tainted worker nodes."""

    spot_grace_seconds: int
    """Seconds that a pod has on a spot machine after the cloud's notice."""

    worker_placement = WORKER_PLACEMENT
    scheduler_placement = SYSTEM_PLACEMENT

    def connect(
        self,
        name: str,
        kubeconfig: pulumi.Output[str],
        identifier: pulumi.Input[str],
        removers: Sequence[pulumi.Resource],
    ) -> DestroyGuard:
        """Sets `kubeconfig` and `provider`. Every resource of that provider is deleted before the returned guard.

        removers: resources that must still exist while Kubernetes deletes its disks and load balancers (nodes, CSI
        drivers, network).
        """
        self.kubeconfig = pulumi.Output.secret(kubeconfig)
        guard = DestroyGuard(
            f"{name}-destroy-guard", self.kubeconfig, pulumi.ResourceOptions(parent=self, depends_on=list(removers))
        )
        self.provider = kubernetes.Provider(
            f"{name}-kubernetes",
            kubeconfig=self.kubeconfig,
            cluster_identifier=identifier,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[guard]),
        )
        return guard

    def publish(
        self,
        name: str,
        settings: ManagedSettings,
        system: pulumi.Resource,
        addresses: Sequence[pulumi.Input[str]],
        service: Mapping[str, Any],
    ) -> pulumi.Resource:
        """Sets `public_access` and `public_address`, and returns the ingress controller for `ready`.

        system: the system node, on which it runs. addresses: reserved, for the load balancer. service: by which its
        Service takes them.
        """
        public = PublicIngress(
            f"{name}-public",
            PublicIngressArgs(
                node_selector=SYSTEM_PLACEMENT.node_selector,
                storage_class=self.home_storage_class or "",
                host=settings.host or "",
                addresses=addresses,
                service=service,
                email=settings.acme_email,
                networks=settings.host_networks,
                wait_for=[system],
            ),
            self.provider,
            pulumi.ResourceOptions(parent=self),
        )
        self.public_access = public.access
        self.public_address = pulumi.Output.all(*addresses).apply(" ".join)
        return public.release

    def set_sizes(self, settings: ManagedSettings, pool: WorkerPool) -> None:
        """Sets the pods' requests, what the chart gives workers, and in words nodes and the home's end."""
        self.home_words = home_words(settings)
        self.worker_size = replace(pool.worker, disk_gib=WORKER_DISK_GIB)
        self.warm_workers = settings.warm_workers
        if settings.spot:
            self.worker_grace_seconds = self.spot_grace_seconds
        self.scheduler_size = replace(scheduler_size(settings), disk_gib=SCHEDULER_DISK_GIB)
        words = [str(pool)]
        if also := [name for name in settings.other_machine_types if name != settings.machine_type]:
            words.append(f"or {', '.join(also)}")
        if settings.spot:
            words.append("spot, else on demand" if settings.falls_back else "spot")
        if settings.autoscaled:
            words.append(f"autoscaled 0 to {pool.max_nodes}")
        if settings.warm_workers:
            words.append(f"room for {settings.warm_workers} more workers")
        self.nodes = f"{', '.join(words)}; 1 x {settings.system_machine_type} for scheduler and system"
