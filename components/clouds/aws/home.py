"""The home's disk on AWS, its last snapshot and its daily ones."""

from __future__ import annotations

from collections.abc import Callable

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from components.clouds.aws.api import ask
from components.clouds.aws.iam import create_role
from components.clouds.aws.location import Location
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import Refusal, found_or_none, say_unchecked
from components.clouds.home import (
    HOME_LABEL,
    SNAPSHOT_TIME,
    SNAPSHOT_TIMEOUT,
    Disk,
    Lookup,
    Snapshot,
    choose_snapshot,
    create_home_volume,
    home_name,
)
from components.clouds.scope import Scope

DRIVER = "ebs.csi.aws.com"
ABSENT = r"returned no results|no matching|couldn't find|empty result|Invalid(Snapshot|Volume)\.NotFound"

MIB_A_SECOND = 125
"""Throughput of gp3 that is part of its price. Stated, because the provider changes `finalSnapshot` of an existing disk
by a request that must have one such value (terraform-provider-aws#31044)."""


def find_snapshot(settings: EksSettings, location: Location, lookup: pulumi.InvokeOptions) -> Snapshot | None:
    """The snapshot that a new disk is made from."""
    name = home_name(settings)

    def disk() -> Disk | None:
        own = [
            aws.ebs.GetVolumeFilterArgs(name=f"tag:{HOME_LABEL}", values=[name]),
            aws.ebs.GetVolumeFilterArgs(name="status", values=["creating", "available", "in-use"]),
        ]
        try:
            found = found_or_none(lambda: aws.ebs.get_volume(filters=own, most_recent=True, opts=lookup), ABSENT)
        except Refusal as error:
            say_unchecked("whether the home has a disk, which may be larger than homeGiB, or in another zone", error)
            return None
        return Disk(found.availability_zone, found.size) if found else None

    def newest() -> Snapshot | None:
        own = [
            aws.ebs.GetSnapshotFilterArgs(name=f"tag:{HOME_LABEL}", values=[name]),
            aws.ebs.GetSnapshotFilterArgs(name="status", values=["completed"]),
        ]
        return snapshot(
            "the snapshots of the home",
            lambda: aws.ebs.get_snapshot(owners=["self"], filters=own, most_recent=True, opts=lookup),
        )

    def named(given: str) -> Snapshot | None:
        return snapshot(
            f"snapshot {given}", lambda: aws.ebs.get_snapshot(owners=["self"], snapshot_ids=[given], opts=lookup)
        )

    return choose_snapshot(
        settings,
        location.system_zone,
        Lookup(
            disk=disk,
            newest=newest,
            named=named,
            snapshots=f"aws ec2 describe-snapshots --region {settings.region} --owner-ids self "
            f"--filters Name=tag:{HOME_LABEL},Values={name}",
        ),
    )


def snapshot(question: str, call: Callable[[], aws.ebs.AwaitableGetSnapshotResult]) -> Snapshot | None:
    """A snapshot, or None. A new disk is made from it, so a refusal stops the program: the home would be empty."""
    found = ask(question, lambda: found_or_none(call, ABSENT))
    return Snapshot(found.snapshot_id, found.volume_size, found.start_time) if found else None


def create_home(
    scope: Scope,
    settings: EksSettings,
    location: Location,
    cluster: aws.eks.Cluster,
    found: Snapshot | None,
) -> aws.ebs.Volume:
    """The home's disk, whose tags its last snapshot gets. Only the driver changes an existing disk: it expands it."""
    return aws.ebs.Volume(
        f"{scope.name}-home",
        availability_zone=location.system_zone,
        type="gp3",
        throughput=MIB_A_SECOND,
        size=settings.home_gib,
        encrypted=True,
        snapshot_id=found.name if found else None,
        final_snapshot=settings.keep_home,
        tags={
            "Name": f"{scope.name}-home",
            HOME_LABEL: home_name(settings),
            # The disk driver's policy attaches only what has the name of its own cluster.
            "ebs.csi.aws.com/cluster-name": cluster.name,
        },
        opts=scope.options(
            ignore_changes=["availabilityZone", "size", "snapshotId", "encrypted"], timeout=SNAPSHOT_TIMEOUT
        ),
    )


def create_daily_snapshots(scope: Scope, settings: EksSettings, partition: str) -> None:
    """Daily snapshots of the home's disk by Data Lifecycle Manager, where `homeSnapshotDays` is set."""
    if not settings.home_snapshot_days:
        return
    manager = "service-role/AWSDataLifecycleManagerServiceRole"
    role = create_role(scope, "snapshots", "dlm.amazonaws.com", partition, {"dlm": manager})
    aws.dlm.LifecyclePolicy(
        f"{scope.name}-home-daily",
        description=f"Daily snapshots of the home of {scope.name}",
        execution_role_arn=role.role.arn,
        state="ENABLED",
        policy_details={
            "resource_types": ["VOLUME"],
            "target_tags": {HOME_LABEL: home_name(settings)},
            "schedules": [
                {
                    "name": "daily",
                    "create_rule": {"interval": 24, "interval_unit": "HOURS", "times": SNAPSHOT_TIME},
                    "retain_rule": {"count": settings.home_snapshot_days},
                    # By which the next `pulumi up` finds the newest one, and a cost report all of them.
                    "copy_tags": True,
                }
            ],
        },
        opts=scope.options(depends_on=role.policies),
    )


def mount_home(
    scope: Scope, settings: EksSettings, disk: aws.ebs.Volume, storage_class: pulumi.Input[str]
) -> kubernetes.core.v1.PersistentVolume:
    """The volume of the home's disk. scope: with the provider of the Kubernetes cluster."""
    zone_label = "topology.kubernetes.io/zone"
    return create_home_volume(scope, settings, DRIVER, disk.id, zone_label, disk.availability_zone, storage_class)
