"""The GKE control plane, without nodes."""

from __future__ import annotations

from datetime import datetime, timedelta

import pulumi_gcp as gcp

from components.clouds.google.access import reached_by_name
from components.clouds.google.location import Location
from components.clouds.google.network import PODS, SERVICES, Network
from components.clouds.google.nodes import OAUTH_SCOPES
from components.clouds.google.settings import GkeSettings
from components.clouds.google.versions import CHANNEL
from components.clouds.scope import Scope
from components.settings.names import short_name

DEFAULT_POOL_MACHINE, DEFAULT_POOL_DISK_GIB = "e2-medium", 20
"""Machine and disk of the default node pool, which GKE creates with the cluster and Pulumi deletes at once."""

MAINTENANCE = timedelta(hours=8)
"""Length of a maintenance window. On two days a week it is more than the 48 hours in 32 days that GKE requires
(https://cloud.google.com/kubernetes-engine/docs/concepts/maintenance-windows-and-exclusions)."""


def create_control_plane(
    scope: Scope, settings: GkeSettings, location: Location, network: Network, identity: gcp.serviceaccount.Account
) -> gcp.container.Cluster:
    """A private, VPC-native cluster, whose default node pool is deleted at once."""
    return gcp.container.Cluster(
        # A cluster's name has at most 40 characters, of which Pulumi generates eight.
        short_name(scope.name, 32),
        location=settings.zone or settings.region,
        network=network.network,
        subnetwork=network.subnet,
        networking_mode="VPC_NATIVE",
        ip_allocation_policy=gcp.container.ClusterIpAllocationPolicyArgs(
            # In a given subnetwork GKE creates the ranges itself.
            cluster_secondary_range_name=None if settings.network else PODS,
            services_secondary_range_name=None if settings.network else SERVICES,
        ),
        # Dataplane V2 enforces network policies. Without it the chart's policies have no effect.
        datapath_provider="ADVANCED_DATAPATH",
        private_cluster_config={"enable_private_nodes": True},
        control_plane_endpoints_config=endpoints(settings),
        master_authorized_networks_config=authorized_networks(settings),
        # The lowest one: GKE upgrades beyond it within the channel, which is no change to the stack.
        min_master_version=settings.kubernetes_version,
        release_channel={"channel": CHANNEL},
        maintenance_policy=maintenance_policy(settings),
        workload_identity_config={"workload_pool": f"{settings.project}.svc.id.goog"},
        enable_shielded_nodes=True,
        enable_legacy_abac=False,
        master_auth={"client_certificate_config": {"issue_client_certificate": False}},
        remove_default_node_pool=True,
        initial_node_count=1,
        # A zonal cluster's own zone must not be repeated. A regional cluster would start a default node in every zone.
        node_locations=None if settings.zone else [location.system_zone],
        # The default pool exists for a minute. Without the account it would run as the project's default account, which
        # is an editor, or is disabled. Without the disk each node would take 100 GB of SSD, and a new project has 250.
        node_config={
            "machine_type": DEFAULT_POOL_MACHINE,
            "disk_type": "pd-standard",
            "disk_size_gb": DEFAULT_POOL_DISK_GIB,
            "service_account": identity.email,
            "oauth_scopes": OAUTH_SCOPES,
            "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
        },
        node_pool_defaults={"node_config_defaults": {"insecure_kubelet_readonly_port_enabled": "FALSE"}},
        addons_config={
            "gce_persistent_disk_csi_driver_config": {"enabled": True},
            "gcp_filestore_csi_driver_config": {"enabled": settings.shared_gib > 0},
        },
        cluster_autoscaling={"enabled": False, "autoscaling_profile": "OPTIMIZE_UTILIZATION"},
        logging_config={"enable_components": ["SYSTEM_COMPONENTS", "WORKLOADS"]},
        # Managed Prometheus would run a collector on every worker node, which sizing does not count.
        monitoring_config={"enable_components": ["SYSTEM_COMPONENTS"], "managed_prometheus": {"enabled": False}},
        cost_management_config={"enabled": True},
        resource_labels=dict(scope.labels),
        # Pulumi's own `protect` guards a cluster. With this on, `pulumi destroy` would need an update before it.
        deletion_protection=False,
        # GKE reports the default pool's settings here, and after its deletion those of another pool.
        opts=scope.options(ignore_changes=["nodeConfig", "initialNodeCount", "nodeVersion"]),
    )


def maintenance_policy(settings: GkeSettings) -> gcp.container.ClusterMaintenancePolicyArgs:
    """Eight hours on each day of `maintenanceWindow`. Without a window GKE upgrades at any hour.

    The date is that of the first window, in the past. GKE reports other forms of time in UTC, which would be a change
    on every run.
    """
    days, start = settings.maintenance_window.split(" ")
    begin = datetime.fromisoformat(f"2026-01-01T{start}:00+00:00")
    first, end = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (begin, begin + MAINTENANCE))
    return gcp.container.ClusterMaintenancePolicyArgs(
        recurring_window=gcp.container.ClusterMaintenancePolicyRecurringWindowArgs(
            start_time=first, end_time=end, recurrence=f"FREQ=WEEKLY;BYDAY={days}"
        )
    )


def endpoints(settings: GkeSettings) -> gcp.container.ClusterControlPlaneEndpointsConfigArgs:
    """Return the ways to the Kubernetes API: by its address from `authorizedNetworks`, or else by its DNS name.

    At the DNS name Google asks IAM at each connection (`container.clusters.connect`), so that no list of addresses must
    follow a laptop (https://cloud.google.com/kubernetes-engine/docs/concepts/network-isolation). Never both, since the
    name would lead around the list.
    """
    by_name = reached_by_name(settings)
    return gcp.container.ClusterControlPlaneEndpointsConfigArgs(
        dns_endpoint_config=gcp.container.ClusterControlPlaneEndpointsConfigDnsEndpointConfigArgs(
            allow_external_traffic=by_name
        ),
        ip_endpoints_config=gcp.container.ClusterControlPlaneEndpointsConfigIpEndpointsConfigArgs(enabled=not by_name),
    )


def authorized_networks(
    settings: GkeSettings,
) -> gcp.container.ClusterMasterAuthorizedNetworksConfigArgs | None:
    """The networks that may reach the Kubernetes API by its address. None where it is reached by its name."""
    blocks = [
        gcp.container.ClusterMasterAuthorizedNetworksConfigCidrBlockArgs(
            cidr_block=block, display_name="authorizedNetworks"
        )
        for block in settings.authorized_networks
    ]
    if not blocks:
        return None
    return gcp.container.ClusterMasterAuthorizedNetworksConfigArgs(
        cidr_blocks=blocks, gcp_public_cidrs_access_enabled=False
    )
