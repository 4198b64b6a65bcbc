"""The home's disk on Google Cloud, its last snapshot and its daily ones."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds.checks import Refusal, found_or_none, say_unchecked
from components.clouds.google import compute
from components.clouds.google.api import ask
from components.clouds.google.location import Location
from components.clouds.google.settings import GkeSettings
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

DRIVER = "pd.csi.storage.gke.io"
ABSENT = r"Error 404|/(disks|snapshots)/\S+'? (was )?not found|has returned 0 snapshot"


def find_snapshot(settings: GkeSettings, location: Location, lookup: pulumi.InvokeOptions) -> Snapshot | None:
    """The snapshot that a new disk is made from."""
    name = home_name(settings)

    def disk() -> Disk | None:
        try:
            for zone in dict.fromkeys([location.system_zone, *location.zones]):
                found = found_or_none(lambda zone=zone: compute.disk(settings.project, zone, name, lookup), ABSENT)  # type: ignore[misc]
                if found and found.get("size"):
                    return Disk(zone, int(found["size"]))
        except Refusal as error:
            say_unchecked("whether the home has a disk, which may be larger than homeGiB, or in another zone", error)
        return None

    def snapshot(question: str, **wanted: str) -> Snapshot | None:
        # A new disk is made from the answer. So a refusal stops the program: the home would be empty.
        return ask(question, lambda: found_or_none(lambda: found_snapshot(settings.project, lookup, **wanted), ABSENT))

    return choose_snapshot(
        settings,
        location.system_zone,
        Lookup(
            disk=disk,
            # The provider names a disk's last snapshot after the disk, and gives it no label.
            newest=lambda: snapshot("the snapshots of the home", filter=f'name eq "{name}-[0-9]+-[0-9]+"'),
            named=lambda given: snapshot(f"snapshot {given}", name=given),
            snapshots=f'gcloud compute snapshots list --project={settings.project} --filter="name~^{name}"',
        ),
    )


def found_snapshot(project: str, lookup: pulumi.InvokeOptions, **wanted: str) -> Snapshot | None:
    """A snapshot by `name`, or the newest one by `filter`. None, or an Exception, where there is none.

    Of a name that does not exist, the provider returns an answer with nothing but the name in it.
    """
    found = compute.snapshot(project, wanted, lookup)
    if not found.get("diskSizeGb"):
        return None
    return Snapshot(found["name"], int(found["diskSizeGb"]), found["creationTimestamp"])


def create_home(
    scope: Scope, settings: GkeSettings, location: Location, snapshot: Snapshot | None
) -> tuple[compute.Disk, list[pulumi.Resource]]:
    """The home's disk, and its daily snapshots. Nothing changes an existing disk: the driver expands it."""
    disk = compute.Disk(
        f"{scope.name}-home",
        scope.options(ignore_changes=["zone", "size", "snapshot", "type"], timeout=SNAPSHOT_TIMEOUT),
        name=home_name(settings),
        zone=location.system_zone,
        type="pd-balanced",
        size=settings.home_gib,
        **({"snapshot": snapshot.name} if snapshot else {}),
        labels={**scope.labels, HOME_LABEL: home_name(settings)},
        createSnapshotBeforeDestroy=settings.keep_home,
    )
    if not settings.home_snapshot_days:
        return disk, []
    policy = compute.ResourcePolicy(
        f"{scope.name}-home-daily",
        scope.options(),
        region=settings.region,
        snapshotSchedulePolicy={
            "schedule": {"dailySchedule": {"daysInCycle": 1, "startTime": SNAPSHOT_TIME}},
            # Otherwise they would stay for good after `pulumi destroy`.
            "retentionPolicy": {
                "maxRetentionDays": settings.home_snapshot_days,
                "onSourceDiskDelete": "APPLY_RETENTION_POLICY",
            },
            # The provider's default labels do not reach them.
            "snapshotProperties": {"labels": {**scope.labels, HOME_LABEL: home_name(settings)}},
        },
    )
    attachment = compute.DiskResourcePolicyAttachment(
        f"{scope.name}-home-daily", scope.options(), name=policy.name, disk=disk.name, zone=disk.zone
    )
    return disk, [attachment]


def mount_home(
    scope: Scope, settings: GkeSettings, disk: compute.Disk, storage_class: pulumi.Input[str]
) -> kubernetes.core.v1.PersistentVolume:
    """The volume of the home's disk. scope: with the provider of the Kubernetes cluster."""
    handle = pulumi.Output.format("projects/{0}/zones/{1}/disks/{2}", settings.project, disk.zone, disk.name)
    return create_home_volume(scope, settings, DRIVER, handle, "topology.gke.io/zone", disk.zone, storage_class)
