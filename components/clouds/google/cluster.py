"""Google Kubernetes Engine: network, cluster, two node pools, registry and storage classes of one stack.

Not managed: the project, its billing and its enabled APIs (docs/gke.md), and anything in a given `network`. Pulumi
generates physical names with a random suffix, so that two stacks of one name can share a project.
"""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.clouds.checks import require_tool
from components.clouds.google import access, preflight
from components.clouds.google.buckets import IDENTITY, grant_buckets
from components.clouds.google.budget import create_budget
from components.clouds.google.control_plane import create_control_plane
from components.clouds.google.home import create_home, find_snapshot, mount_home
from components.clouds.google.location import Location
from components.clouds.google.network import create_network, reserve_address
from components.clouds.google.nodes import NodePools, create_node_identity
from components.clouds.google.pricing import hourly_cost
from components.clouds.google.registry import create_registry
from components.clouds.google.settings import GkeSettings
from components.clouds.google.storage import create_disk_class, create_filestore, create_shared_volume
from components.clouds.google.streaming import allow_streaming
from components.clouds.labels import common_labels
from components.clouds.managed import ManagedCluster
from components.clouds.scope import Scope


class GkeCluster(ManagedCluster):
    """A private, VPC-native GKE cluster with a system pool and a pool of tainted nodes for workers."""

    # The kubelet gives a pod no longer: the machine goes after 30 s, and the last 15 are for Kubernetes' own pods
    # (https://cloud.google.com/kubernetes-engine/docs/how-to/preemptible-vms).
    spot_grace_seconds = 15

    def __init__(self, name: str, settings: GkeSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:GkeCluster", name, None, opts)
        require_tool(
            access.AUTH_PLUGIN, "kubectl and Pulumi get their credentials for GKE from it", access.INSTALL_AUTH_PLUGIN
        )
        scope = self._scope(name, settings)
        paying = self._paying_provider(name, settings)
        found = preflight.check(settings, scope.lookup, pulumi.InvokeOptions(provider=paying))
        project, location, pool = found.project, found.location, found.pool
        snapshot = find_snapshot(settings, location, scope.lookup)

        network = create_network(scope, settings)
        identity, log_role = create_node_identity(scope, settings, network.suffix)
        rights: list[pulumi.Resource] = [log_role]
        if not settings.image:
            self.registry, pull_role = create_registry(scope, settings, network.suffix, identity)
            rights.append(pull_role)
        if found.streaming:
            rights.append(allow_streaming(scope, settings, identity))
        cluster = create_control_plane(scope, settings, location, network, identity)
        pools = NodePools(
            scope, settings, location, cluster, identity, rights, upgrade=found.upgrade, streaming=found.streaming
        )
        system = pools.create_system()
        workers = pools.create_workers(pool)

        removers = [cluster, system, *workers, *network.egress]
        address = reserve_address(scope, settings.region) if settings.host else None
        if address:
            removers.append(address)
        guard = self.connect(name, access.kubeconfig_of(cluster, settings), cluster.id, removers)
        instance = create_filestore(scope, settings, network, location) if settings.shared_gib else None
        storage = self._storage(scope.within(self.provider), settings, location, instance)
        ready: list[pulumi.Resource] = [system, *workers, guard, *storage]
        if settings.home_gib:
            disk, daily = create_home(scope, settings, location, snapshot)
            volume = mount_home(scope.within(self.provider), settings, disk, self.home_storage_class or "")
            self.home_volume = volume.metadata["name"]
            ready += [volume, *daily]
        if settings.buckets:
            self.cloud_identity = IDENTITY
            ready += grant_buckets(scope, settings, project.number, cluster)
        if address:
            balancer = {"spec": {"loadBalancerIP": address.address}}
            ready.append(self.publish(name, settings, system, [address.address], balancer))
        self.ready = tuple(ready)

        create_budget(scope.within(paying), settings, project)
        self.set_sizes(settings, pool)
        self.kubeconfig_command = access.kubeconfig_command(cluster, settings)
        self.kubectl = access.kubectl(cluster, settings)
        self.node_shell = access.node_shell(cluster, settings, location.system_zone)
        self.hourly_cost = hourly_cost(settings, location, pool, scope.lookup)
        self.register_outputs({"kubeconfigCommand": self.kubeconfig_command, "nodes": self.nodes})

    def _scope(self, name: str, settings: GkeSettings) -> Scope:
        """The context of the children, with a provider that labels them all."""
        labels = common_labels(settings)
        provider = gcp.Provider(
            f"{name}-google",
            project=settings.project,
            region=settings.region,
            default_labels=labels,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return Scope(name, self, provider, labels)

    def _paying_provider(self, name: str, settings: GkeSettings) -> gcp.Provider:
        """A provider for the APIs of quotas and budgets, which refuse a user's login unless the project pays.

        Only there, because it takes a permission more (serviceusage.services.use).
        """
        return gcp.Provider(
            f"{name}-google-quotas",
            project=settings.project,
            billing_project=settings.project,
            user_project_override=True,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _storage(
        self, scope: Scope, settings: GkeSettings, location: Location, instance: gcp.filestore.Instance | None
    ) -> list[pulumi.Resource]:
        """Creates and sets the storage classes, and the volume of a Filestore instance.

        scope: with the provider of the Kubernetes cluster.
        """
        disks = create_disk_class(scope)
        self.home_storage_class = disks.metadata["name"]
        if not instance:
            return [disks]
        volume = create_shared_volume(scope, settings, location, instance)
        self.shared_storage_class = volume.spec["storage_class_name"]
        self.shared_volume = volume.metadata["name"]
        return [disks, volume]
