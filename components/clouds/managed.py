"""What a cluster on Google Cloud and one on AWS have in common: what they are made from, and how they are handed over.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds import checks as cloud
from components.clouds import sizing
from components.clouds.base import Cluster, PodSize, scheduler_size
from components.clouds.ingress import PublicIngress, PublicIngressArgs
from components.clouds.settings import ManagedSettings
from components.dynamic.leftovers import Leftovers


@dataclass(frozen=True, kw_only=True)
class CloudClusterArgs:
    """What a cluster on either cloud is made from; units as in `Settings`."""

    stack: str
    region: str
    workers: int
    max_workers: int
    machine_type: str
    system_machine_type: str
    zone: str | None = None
    spot: bool = False
    worker_cpu: float | None = None
    worker_memory_gib: float | None = None
    scheduler: PodSize = field(default_factory=lambda: PodSize(500, 2048))
    scales_to_zero: bool = False
    """Whether workers may all go (idleMinutes, ttlHours), and their nodes with them."""
    makes_image: bool = True
    shared_gib: int = 0
    host: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    authorized_networks: Sequence[str] = ()
    network: str | None = None

    @property
    def autoscaled(self) -> bool:
        """Whether the autoscaler owns the number of the workers' nodes."""
        return self.max_workers > self.workers or self.scales_to_zero

    def least_nodes(self, pool: sizing.WorkerPool) -> int:
        """The fewest nodes that an autoscaler may leave: none where workers may all go, else what `workers` need."""
        return 0 if self.scales_to_zero else pool.nodes


def common_args(settings: ManagedSettings) -> dict[str, Any]:
    """The fields of `CloudClusterArgs` that `settings` ask for."""
    return {
        "stack": settings.stack,
        "region": settings.region,
        "zone": settings.zone,
        "workers": settings.workers,
        "max_workers": settings.max_workers,
        "machine_type": settings.machine_type,
        "system_machine_type": settings.system_machine_type,
        "spot": settings.spot,
        "worker_cpu": settings.worker_cpu,
        "worker_memory_gib": settings.worker_memory_gib,
        "scheduler": scheduler_size(settings),
        "scales_to_zero": settings.scales_to_zero,
        "makes_image": settings.image is None,
        "shared_gib": settings.shared_gib,
        "host": settings.host,
        "labels": settings.labels,
        "authorized_networks": settings.authorized_networks,
        "network": settings.network,
    }


def check_zone(args: CloudClusterArgs, zones: Sequence[str]) -> None:
    """Raises CloudError when the zone asked for is not among those of the region."""
    if args.zone and args.zone not in zones:
        raise cloud.CloudError(
            cloud.problem(
                f"zone is {args.zone!r}",
                f"a zone of region {args.region} that Kubernetes may use: {', '.join(zones)}",
                f"pulumi config set zone {zones[0]}",
            )
        )


def chosen_zones(args: CloudClusterArgs, system: Sequence[str], workers: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The system nodes' zone and the workers' zones, out of those, at least one each, that offer their machines."""
    # The scheduler's zone depends on nothing about the workers: its disk could not follow it into another.
    home = system[0]
    # Spread over zones only where capacity may run out and the autoscaler chooses: traffic between zones is billed.
    if args.spot and args.autoscaled:
        return home, tuple(workers)
    return home, (home if home in workers else workers[0],)


def size_workers(
    args: CloudClusterArgs,
    candidate: sizing.Candidate,
    daemons: Sequence[PodSize],
    others: Callable[[], Iterable[sizing.Candidate]],
) -> sizing.WorkerPool:
    """Nodes and worker size. Raises SizingError, naming those of `others`, asked for only then, that would do."""
    size = partial(
        sizing.size_pool,
        workers=args.workers,
        max_workers=args.max_workers,
        candidate=candidate,
        daemons=daemons,
        worker_cpu=args.worker_cpu,
        worker_memory_gib=args.worker_memory_gib,
    )
    try:
        return size()
    except sizing.SizingError:
        return size(others=list(others()))


def check_scheduler(args: CloudClusterArgs, free: sizing.Capacity, beside: str, larger: str) -> None:
    """Raises CloudError when the scheduler does not fit into what is `free` on a system node.

    beside: what takes the rest. larger: a machine type to name.
    """
    if free.count(args.scheduler) < 1:
        raise cloud.CloudError(
            cloud.problem(
                f"the scheduler asks for {args.scheduler.cpu_millicores / 1000:g} cores and "
                f"{args.scheduler.memory_mib / 1024:g} GiB (schedulerCpu, schedulerMemoryGiB)",
                f"at most {max(0, free.cpu_millicores) / 1000:.2f} cores and {max(0, free.memory_mib) / 1024:.2f} GiB, "
                f"which is what a {args.system_machine_type} has beside {beside}",
                f"pulumi config set systemMachineType {larger} (or a larger one)",
            )
        )


class CloudCluster(Cluster):
    """A cluster that the stack makes, from where its nodes stand to where the release takes over."""

    def _connect(
        self,
        name: str,
        kubeconfig: pulumi.Output[str],
        identifier: pulumi.Input[str],
        removers: Sequence[pulumi.Resource],
    ) -> Leftovers:
        """Sets `kubeconfig` and `provider`; all that goes through the provider is destroyed before the wait it returns.

        removers: what takes part in deleting what Kubernetes made in the cloud by itself, and outlives the wait.
        """
        self.kubeconfig = pulumi.Output.secret(kubeconfig)
        leftovers = Leftovers(
            f"{name}-leftovers", self.kubeconfig, pulumi.ResourceOptions(parent=self, depends_on=list(removers))
        )
        self.provider = kubernetes.Provider(
            f"{name}-kubernetes",
            kubeconfig=self.kubeconfig,
            cluster_identifier=identifier,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[leftovers]),
        )
        return leftovers

    def _hand_over(
        self,
        name: str,
        args: CloudClusterArgs,
        pool: sizing.WorkerPool,
        system: pulumi.Resource,
        ready: Sequence[pulumi.Resource],
        balancer: Mapping[str, str] | None = None,
    ) -> None:
        """Sets what the release needs beside storage, with the way in from outside where `host` asks for one.

        system: the scheduler's nodes. ready: as in `Cluster`. balancer: annotations of the load balancer's Service.
        """
        self.ready = tuple(ready)
        if args.host:
            public = PublicIngress(
                f"{name}-public",
                PublicIngressArgs(
                    host=args.host,
                    node_selector=cloud.SYSTEM_PLACEMENT.node_selector,
                    storage_class=self.home_storage_class or "",
                    service_annotations=balancer or {},
                    wait_for=[system],
                ),
                self.provider,
                pulumi.ResourceOptions(parent=self),
            )
            self.public_access, self.public_address = public.access, public.address
            self.ready = (*self.ready, public.release)
        self.worker_placement = cloud.WORKER_PLACEMENT
        self.scheduler_placement = cloud.SYSTEM_PLACEMENT
        self.worker_size = pool.worker
        self.scheduler_size = args.scheduler
        words = [str(pool)]
        if args.spot:
            words.append("spot")
        if args.autoscaled:
            words.append(f"autoscaled {args.least_nodes(pool)} to {pool.max_nodes}")
        self.nodes = f"{', '.join(words)}; 1 x {args.system_machine_type} for scheduler and system"
