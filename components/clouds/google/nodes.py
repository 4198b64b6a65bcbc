"""Node pools: one for the system, and those of tainted nodes for workers; and the identity of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp

from components.clouds.base import WORKER_NODE_LABEL, WORKER_TAINT
from components.clouds.google.allocatable import SYSTEM_DISK_GIB, boot_disk_type, worker_disk_gib
from components.clouds.google.location import Location, WorkerType
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope
from components.clouds.sizing import WorkerPool
from components.settings.names import short_name

OAUTH_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
"""The widest scope: the roles of the service account decide what a node may do, and a scope would limit it twice."""

MAX_SYSTEM_NODES = 3


def create_node_identity(
    scope: Scope, settings: GkeSettings, suffix: pulumi.Output[str]
) -> tuple[gcp.serviceaccount.Account, pulumi.Resource]:
    """The service account of the nodes, and its one role: writing logs and metrics.

    https://cloud.google.com/kubernetes-engine/docs/how-to/hardening-your-cluster#use_least_privilege_sa
    """
    account = gcp.serviceaccount.Account(
        f"{scope.name}-nodes-identity",
        account_id=suffix.apply(lambda unique: f"{short_name(scope.name, 22)}-{unique}"),
        display_name=f"Nodes of {scope.name}",
        opts=scope.options(),
    )
    role = gcp.projects.IAMMember(
        f"{scope.name}-nodes-role",
        project=settings.project,
        role="roles/container.defaultNodeServiceAccount",
        member=account.member,
        opts=scope.options(),
    )
    return account, role


@dataclass(frozen=True)
class NodePools:
    """Creates the node pools of a cluster.

    depends_on: permissions without which a node cannot start. upgrade: bring the nodes to the control plane's version
    now, and not when GKE does. streaming: the workers' nodes stream images, which would make the scheduler's node
    new once more when the project gets the API.
    """

    scope: Scope
    settings: GkeSettings
    location: Location
    cluster: gcp.container.Cluster
    identity: gcp.serviceaccount.Account
    depends_on: Sequence[pulumi.Resource]
    upgrade: bool = False
    streaming: bool = False

    def create_system(self) -> gcp.container.NodePool:
        """One small node for the scheduler and Kubernetes' own pods. The autoscaler adds more where they do not fit."""
        return gcp.container.NodePool(
            pool_name(self.scope, "system"),
            **self._common_inputs(),
            # One zone, because the disk of the scheduler's home cannot move to another.
            node_locations=[self.location.system_zone],
            initial_node_count=1,
            autoscaling={"total_min_node_count": 1, "total_max_node_count": MAX_SYSTEM_NODES},
            node_config=self._node_config("system", self.settings.system_machine_type, SYSTEM_DISK_GIB),
            opts=self.scope.options(
                depends_on=self.depends_on,
                ignore_changes=["initialNodeCount", "nodeCount"],
                replace_on_changes=["nodeConfig.machineType"],
            ),
        )

    def create_workers(self, pool: WorkerPool) -> list[gcp.container.NodePool]:
        """The pools of the workers' nodes: a spot pool for each machine type, and with a fallback one on demand.

        GKE's autoscaler takes the least expensive one that has machines. A further type's pool is named after the type,
        not after its place in the list: a type that leaves the list takes no other pool with it.
        """
        place = self.location
        spot = bool(self.settings.spot)
        first = WorkerType(place.worker_machine, place.worker_zones)
        made = [self._create_worker_pool("workers", pool, first, spot=spot)]
        made += [self._create_worker_pool(each.machine.name, pool, each, spot=spot) for each in place.other_types]
        if self.settings.falls_back:
            made.append(self._create_worker_pool("on-demand", pool, first, spot=False))
        return made

    def _create_worker_pool(
        self, part: str, pool: WorkerPool, kind: WorkerType, *, spot: bool
    ) -> gcp.container.NodePool:
        """Tainted nodes for workers. part: end of the pool's name.

        Each pool may hold all workers: which of them has machines is known only when they are needed.
        Pulumi generates the pool's name, so that a replacement exists before the old pool is deleted.
        """
        autoscaled = self.settings.autoscaled
        disk = worker_disk_gib(pool.workers_per_node)
        autoscaling = gcp.container.NodePoolAutoscalingArgs(
            total_min_node_count=0,  # nodes that hold workers stay
            total_max_node_count=pool.max_nodes,
            # In whichever zone has machines. Without spot there is one zone.
            location_policy="ANY" if self.settings.spot else "BALANCED",
        )
        return gcp.container.NodePool(
            pool_name(self.scope, part),
            **self._common_inputs(),
            node_locations=list(kind.zones),
            node_config=self._node_config("worker", kind.machine.name, disk, spot=spot),
            autoscaling=autoscaling if autoscaled else None,
            # Counted in each zone, so that one zone without spot machines would fail the whole update. The autoscaler
            # adds the nodes that pods wait for, in the zones that have machines.
            initial_node_count=0 if autoscaled else None,
            ignore_node_count_changes=True if autoscaled else None,
            node_count=None if autoscaled else pool.nodes,
            opts=self.scope.options(
                depends_on=self.depends_on,
                ignore_changes=["initialNodeCount", "nodeCount"] if autoscaled else (),
                # GKE would change the machine type in place, node by node. A new pool keeps every worker running until
                # there is room for it.
                replace_on_changes=["nodeConfig.machineType", "nodeConfig.spot"],
            ),
        )

    def _common_inputs(self) -> dict[str, Any]:
        """Inputs that every pool has."""
        return {
            "cluster": self.cluster.id,
            # Set only while the nodes are a minor version behind. Set for ever it would undo GKE's own upgrades, and
            # unset means no change to the provider.
            "version": self.cluster.master_version if self.upgrade else None,
            "management": {"auto_repair": True, "auto_upgrade": True},
            "upgrade_settings": {"max_surge": 1, "max_unavailable": 0},
            "network_config": {"enable_private_nodes": True},
        }

    def _node_config(
        self, role: str, machine_type: str, disk_gib: int, *, spot: bool = False
    ) -> gcp.container.NodePoolNodeConfigArgs:
        """Settings of a pool's nodes: least identity, shielded, metadata only through workload identity.

        role: `system` or `worker`. Only a worker's node has the taint.
        """
        taint = {"key": WORKER_TAINT["key"], "value": WORKER_TAINT["value"], "effect": "NO_SCHEDULE"}
        return gcp.container.NodePoolNodeConfigArgs(
            machine_type=machine_type,
            spot=spot,
            image_type="COS_CONTAINERD",
            gcfs_config=gcp.container.NodePoolNodeConfigGcfsConfigArgs(enabled=self.streaming)
            if role == "worker"
            else None,
            disk_type=boot_disk_type(machine_type),
            disk_size_gb=disk_gib,
            service_account=self.identity.email,
            oauth_scopes=OAUTH_SCOPES,
            labels={WORKER_NODE_LABEL: role},
            taints=[gcp.container.NodePoolNodeConfigTaintArgs(**taint)] if role == "worker" else None,
            resource_labels=dict(self.scope.labels),
            metadata={"disable-legacy-endpoints": "true"},
            shielded_instance_config=gcp.container.NodePoolNodeConfigShieldedInstanceConfigArgs(
                enable_secure_boot=True, enable_integrity_monitoring=True
            ),
            workload_metadata_config=gcp.container.NodePoolNodeConfigWorkloadMetadataConfigArgs(mode="GKE_METADATA"),
            kubelet_config=gcp.container.NodePoolNodeConfigKubeletConfigArgs(
                insecure_kubelet_readonly_port_enabled="FALSE",
                # Else the end of one R session for want of memory is that of all sessions of its pod.
                single_process_oom_kill=True,
            ),
        )


def pool_name(scope: Scope, part: str) -> str:
    """A pool's name before Pulumi adds its suffix. GKE allows 40 characters."""
    return f"{scope.name[: 31 - len(part)].rstrip('-')}-{part}"
