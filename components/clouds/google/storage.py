"""Storage: the class of disks, and the Filestore instance of /shared."""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp
import pulumi_kubernetes as kubernetes

from components.clouds.base import shared_claim
from components.clouds.google.location import Location
from components.clouds.google.network import Network
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope

SHARE = "shared"


def create_disk_class(scope: Scope) -> kubernetes.storage.v1.StorageClass:
    """Disks with the stack's labels, which GKE's own classes lack. scope: with the provider of the cluster."""
    return kubernetes.storage.v1.StorageClass(
        f"{scope.name}-disks",
        metadata={"name": "future-disks"},
        provisioner="pd.csi.storage.gke.io",
        parameters={
            "type": "pd-balanced",
            "labels": ",".join(f"{key}={value}" for key, value in scope.labels.items()),
        },
        reclaim_policy="Delete",
        volume_binding_mode="WaitForFirstConsumer",
        allow_volume_expansion=True,
        opts=scope.options(),
    )


def create_filestore(
    scope: Scope, settings: GkeSettings, network: Network, location: Location
) -> gcp.filestore.Instance:
    """A Filestore instance in the scheduler's zone."""
    return gcp.filestore.Instance(
        f"{scope.name}-shared",
        location=location.system_zone,
        tier="BASIC_HDD",
        file_shares={"name": SHARE, "capacity_gb": settings.shared_gib},
        networks=[{"network": network.network, "modes": ["MODE_IPV4"], "connect_mode": "DIRECT_PEERING"}],
        labels=dict(scope.labels),
        opts=scope.options(),
    )


def create_shared_volume(
    scope: Scope, settings: GkeSettings, location: Location, instance: gcp.filestore.Instance
) -> kubernetes.core.v1.PersistentVolume:
    """The volume of a Filestore instance. scope: with the provider of the cluster.

    Retain, because Pulumi deletes the instance. With Delete the driver would delete it together with the claim. The
    volume is for one claim only, and replaced for another: once its claim is gone, it binds to no other.
    """
    address = instance.networks.apply(lambda networks: (networks[0].ip_addresses or [""])[0])
    handle = instance.name.apply(lambda name: f"modeInstance/{location.system_zone}/{name}/{SHARE}")
    return kubernetes.core.v1.PersistentVolume(
        f"{scope.name}-shared",
        metadata={"name": f"{scope.name}-shared"},
        spec={
            "storage_class_name": "future-shared",
            "capacity": {"storage": f"{settings.shared_gib}Gi"},
            "access_modes": ["ReadWriteMany"],
            "persistent_volume_reclaim_policy": "Retain",
            "claim_ref": {"namespace": settings.namespace, "name": shared_claim(settings)},
            # The CSI driver makes the folder writable for the pods' group (fsGroup). Plain NFS does not.
            "csi": {
                "driver": "filestore.csi.storage.gke.io",
                "volume_handle": handle,
                "volume_attributes": {"ip": address, "volume": SHARE},
            },
        },
        opts=pulumi.ResourceOptions.merge(
            scope.options(replace_on_changes=["spec.claimRef"]), pulumi.ResourceOptions(delete_before_replace=True)
        ),
    )
