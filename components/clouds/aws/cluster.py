"""Amazon EKS: network, cluster, addons, two node groups, registry and storage classes of one stack.

Not managed: the account, and anything in a given `network`. Pulumi generates physical names with a random suffix, so
that two stacks of one name can share an account.
"""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from components.clouds.aws import access, preflight
from components.clouds.aws.addons import create_addons_before_nodes, create_addons_on_nodes
from components.clouds.aws.autoscaler import create_autoscaler, grant_autoscaler
from components.clouds.aws.buckets import IDENTITY, grant_buckets
from components.clouds.aws.budget import create_budget
from components.clouds.aws.control_plane import create_control_plane, grant_access
from components.clouds.aws.home import create_daily_snapshots, create_home, find_snapshot, mount_home
from components.clouds.aws.network import create_network
from components.clouds.aws.nodes import create_node_groups, prepare_nodes, worker_scalings
from components.clouds.aws.pricing import hourly_cost
from components.clouds.aws.registry import create_registry, find_token
from components.clouds.aws.settings import EksSettings
from components.clouds.aws.storage import SharedFiles, create_disk_class, create_shared_class, create_shared_files
from components.clouds.checks import require_tool
from components.clouds.labels import common_labels
from components.clouds.managed import ManagedCluster
from components.clouds.scope import Scope


class EksCluster(ManagedCluster):
    """An EKS cluster in private subnets, with a system node group and a group of tainted nodes for workers."""

    # EKS drains a node at AWS's notice, two minutes before the machine goes. The rest is for the drain to begin
    # (https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html).
    spot_grace_seconds = 110

    def __init__(self, name: str, settings: EksSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:EksCluster", name, None, opts)
        require_tool(
            "aws",
            "kubectl and Pulumi get their credentials for EKS from it (aws eks get-token)",
            "install it as https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html says",
        )
        scope = self._scope(name, settings)
        location, pool = preflight.check(settings, scope.lookup)
        token = None if settings.image else find_token(location.account, scope.lookup)
        snapshot = find_snapshot(settings, location, scope.lookup)
        sizes = worker_scalings(scope, settings, pool)
        partition = location.partition

        network = create_network(scope, settings, location)
        self.registry = create_registry(scope, token) if token else None
        cluster = create_control_plane(scope, settings, network, partition)
        granted = grant_access(scope, settings, cluster, partition)
        before_nodes = create_addons_before_nodes(scope, cluster, partition)
        common = prepare_nodes(scope, settings, partition, cluster, [*before_nodes, *network.egress])
        groups = create_node_groups(common, location, network, pool, sizes)
        addons = create_addons_on_nodes(scope, cluster, partition, groups.system, shared_files=settings.shared_gib > 0)
        removers = [cluster, *granted, groups.system, *groups.workers, *addons]
        files = create_shared_files(scope, cluster, network, location) if settings.shared_gib else None
        if files:
            removers += files.access
        if settings.autoscaled:
            removers += grant_autoscaler(scope, cluster, groups, pool.workers_per_node, partition)
        addresses = access.reserve_addresses(scope, network) if settings.host else []
        removers += addresses

        guard = self.connect(name, access.kubeconfig_of(cluster, settings.region), cluster.arn, removers)
        inside = scope.within(self.provider)
        ready: list[pulumi.Resource] = [groups.system, *groups.workers, *addons, guard, *self._storage(inside, files)]
        if settings.home_gib:
            disk = create_home(scope, settings, location, cluster, snapshot)
            create_daily_snapshots(scope, settings, partition)
            volume = mount_home(inside, settings, disk, self.home_storage_class or "")
            self.home_volume = volume.metadata["name"]
            ready.append(volume)
        if settings.autoscaled:
            ready.append(create_autoscaler(inside, cluster, groups, settings.region))
        if settings.buckets:
            self.cloud_identity = IDENTITY
            ready += grant_buckets(scope, settings, cluster, location.account, partition)
        if settings.host:
            balancer = {"annotations": access.load_balancer_annotations(scope.labels, network, addresses)}
            ready.append(self.publish(name, settings, groups.system, [each.public_ip for each in addresses], balancer))
        self.ready = tuple(ready)

        create_budget(scope, settings, location)
        self.set_sizes(settings, pool)
        self.kubeconfig_command = access.kubeconfig_command(cluster, settings.region)
        self.kubectl = access.kubectl(cluster)
        self.node_shell = access.node_shell(cluster, settings.region)
        self.hourly_cost = hourly_cost(scope, settings, location, pool).output()
        self.register_outputs({"kubeconfigCommand": self.kubeconfig_command, "nodes": self.nodes})

    def _scope(self, name: str, settings: EksSettings) -> Scope:
        """The context of the children, with a provider that tags them all."""
        labels = common_labels(settings)
        provider = aws.Provider(
            f"{name}-aws",
            region=settings.region,
            default_tags=aws.ProviderDefaultTagsArgs(tags=labels),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return Scope(name, self, provider, labels)

    def _storage(self, scope: Scope, files: SharedFiles | None) -> list[pulumi.Resource]:
        """Creates and sets the storage classes. scope: with the provider of the Kubernetes cluster."""
        disks = create_disk_class(scope)
        self.home_storage_class = disks.metadata["name"]
        if not files:
            return [disks]
        shared = create_shared_class(scope, files.file_system)
        self.shared_storage_class = shared.metadata["name"]
        return [disks, shared]
