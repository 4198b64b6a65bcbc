"""Storage: the class of disks, and the file system of /shared."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from components.clouds.aws.location import Location
from components.clouds.aws.network import Network
from components.clouds.scope import Scope

NFS_PORT = 2049


@dataclass(frozen=True)
class SharedFiles:
    """A file system, and the resources without which no node can mount it."""

    file_system: aws.efs.FileSystem
    access: list[pulumi.Resource]


def create_disk_class(scope: Scope) -> kubernetes.storage.v1.StorageClass:
    """Encrypted gp3 disks with the stack's tags, the cluster's default class.

    scope: with the provider of the Kubernetes cluster.
    """
    tags = {
        f"tagSpecification_{index + 1}": f"{key}={value}" for index, (key, value) in enumerate(scope.labels.items())
    }
    return kubernetes.storage.v1.StorageClass(
        f"{scope.name}-disks",
        metadata={
            "name": "future-disks",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        provisioner="ebs.csi.aws.com",
        parameters={"type": "gp3", "encrypted": "true", **tags},
        reclaim_policy="Delete",
        volume_binding_mode="WaitForFirstConsumer",
        allow_volume_expansion=True,
        opts=scope.options(),
    )


def create_shared_files(scope: Scope, cluster: aws.eks.Cluster, network: Network, location: Location) -> SharedFiles:
    """An encrypted file system for /shared, which only nodes of this cluster can reach."""
    files = aws.efs.FileSystem(
        f"{scope.name}-shared",
        encrypted=True,
        throughput_mode="elastic",
        tags={"Name": f"{scope.name}-shared"},
        opts=scope.options(),
    )
    group = aws.ec2.SecurityGroup(
        f"{scope.name}-shared",
        vpc_id=network.vpc,
        description="NFS from the nodes of the cluster",
        opts=scope.options(),
    )
    rule = aws.vpc.SecurityGroupIngressRule(
        f"{scope.name}-shared",
        security_group_id=group.id,
        referenced_security_group_id=cluster.vpc_config.cluster_security_group_id,
        ip_protocol="tcp",
        from_port=NFS_PORT,
        to_port=NFS_PORT,
        opts=scope.options(),
    )
    targets = [
        aws.efs.MountTarget(
            f"{scope.name}-shared-{zone}",
            file_system_id=files.id,
            subnet_id=network.private[zone],
            security_groups=[group.id],
            opts=scope.options(),
        )
        for zone in dict.fromkeys([location.system_zone, *location.worker_zones])
    ]
    return SharedFiles(files, [rule, *targets])


def create_shared_class(scope: Scope, files: aws.efs.FileSystem) -> kubernetes.storage.v1.StorageClass:
    """Folders of the file system, each owned by the image's user.

    scope: with the provider of the Kubernetes cluster.
    """
    return kubernetes.storage.v1.StorageClass(
        f"{scope.name}-shared",
        metadata={"name": "future-shared"},
        provisioner="efs.csi.aws.com",
        parameters={
            "provisioningMode": "efs-ap",
            "fileSystemId": files.id,
            "directoryPerms": "0770",
            "uid": "1000",
            "gid": "1000",
        },
        reclaim_policy="Delete",
        opts=scope.options(),
    )
