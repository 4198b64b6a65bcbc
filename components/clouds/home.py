"""The disk of /home/rstudio on a cloud: which snapshot a new one is made from, and what is refused beforehand.

The disk is a resource of the stack and no disk of the cluster, so that it can outlive the cluster. Nothing here imports
a cloud's SDK.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds.base import home_claim
from components.clouds.checks import CloudError, problem
from components.clouds.scope import Scope
from components.clouds.settings import NO_SNAPSHOT, ManagedSettings
from components.settings.names import short_name

HOME_LABEL = "future-kubernetes-home"
"""Label of the home's disk and snapshots, with the value of `home_name`."""

SNAPSHOT_TIME = "02:00"
"""Hour of the daily snapshots, in UTC."""

SNAPSHOT_TIMEOUT = "3h"
"""Limit for a snapshot. The first one of a disk copies all of it, and the providers give up after 10 or 20 minutes."""

MAX_NAME = 48
"""Longest name from which Google's provider makes the name of a snapshot: it appends 16 characters to the disk's."""


def home_name(settings: ManagedSettings) -> str:
    """The name by which the next `pulumi up` finds the home of the same organization, project and stack.

    No random part: the state, which would hold it, forgets it with `pulumi destroy`.
    """
    parts = (pulumi.get_organization(), pulumi.get_project(), settings.stack)
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:10]
    return f"{short_name(settings.name, MAX_NAME - len(digest) - 6)}-home-{digest}"


@dataclass(frozen=True)
class Disk:
    """The disk that a home has."""

    zone: str
    gib: int


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a home. name: by which a disk is made from it. gib: size of the disk. made: its time."""

    name: str
    gib: int
    made: str


@dataclass(frozen=True)
class Lookup:
    """The questions to a cloud. Each returns None where there is no such thing, and raises where the cloud refuses.

    snapshots: command that lists the snapshots of this home.
    """

    disk: Callable[[], Disk | None]
    newest: Callable[[], Snapshot | None]
    named: Callable[[str], Snapshot | None]
    snapshots: str


def choose_snapshot(settings: ManagedSettings, zone: str, lookup: Lookup) -> Snapshot | None:
    """The snapshot that a new disk is made from; None for an empty disk, and where the disk exists.

    zone: that of the system node. Raises CloudError for a disk that would have to shrink or to move, for a snapshot
    that is gone, and for a disk that is too small for it.
    """
    if not settings.home_gib:
        return None
    disk = lookup.disk()
    if disk:
        check_disk(settings, disk, zone)
        return None
    if settings.home_snapshot == NO_SNAPSHOT:
        return None
    if settings.home_snapshot:
        found = lookup.named(settings.home_snapshot)
        if not found:
            raise CloudError(
                problem(
                    f"homeSnapshot is {settings.home_snapshot!r}, which does not exist",
                    f"a snapshot of a home, as listed by: {lookup.snapshots}",
                    f"pulumi config set homeSnapshot NAME, pulumi config rm homeSnapshot, or for an empty home: "
                    f"pulumi config set homeSnapshot {NO_SNAPSHOT}",
                )
            )
    else:
        found = lookup.newest() if settings.keep_home else None
    if not found:
        if settings.keep_home:
            pulumi.log.info(f"there is no snapshot of a home of this stack, so the home is empty ({lookup.snapshots})")
        return None
    if found.gib > settings.home_gib:
        raise CloudError(
            problem(
                f"homeGiB is {settings.home_gib}, and the home is restored from snapshot {found.name} of "
                f"{found.gib} GiB",
                f"at least {found.gib}",
                f"pulumi config set homeGiB {found.gib}, or for an empty home: pulumi config set homeSnapshot "
                f"{NO_SNAPSHOT}",
            )
        )
    pulumi.log.info(f"the home is restored from snapshot {found.name} of {found.made}")
    return found


def check_disk(settings: ManagedSettings, disk: Disk, zone: str) -> None:
    """Raises CloudError where a disk would have to shrink, or cannot be attached to a node in `zone`."""
    if settings.home_gib < disk.gib:
        raise CloudError(
            problem(
                f"homeGiB is {settings.home_gib}, and the home's disk has {disk.gib} GiB",
                f"at least {disk.gib}: a disk grows and never shrinks",
                f"pulumi config set homeGiB {disk.gib}",
            )
        )
    if zone != disk.zone:
        raise CloudError(
            problem(
                f"the system node would be in zone {zone}, and the home's disk is in {disk.zone}",
                f"zone {disk.zone}, with a systemMachineType that is offered there: a disk stays in its zone",
                f"pulumi config set zone {disk.zone} (or, to move: pulumi config set keepHome true && pulumi up, then "
                "pulumi destroy, and pulumi up in the other zone)",
            )
        )


def create_home_volume(
    scope: Scope,
    settings: ManagedSettings,
    driver: str,
    handle: pulumi.Input[str],
    zone_label: str,
    zone: pulumi.Input[str],
    storage_class: pulumi.Input[str],
) -> kubernetes.core.v1.PersistentVolume:
    """The volume of the home's disk. scope: with the provider of the Kubernetes cluster.

    Retain, because Pulumi deletes the disk, with a snapshot where `keepHome` is set. Kubernetes deletes the volume only
    after the pod has ended and the disk is detached, so that the snapshot has everything that was written. The storage
    class is that of disks, by which a larger claim expands the disk; the volume's capacity then follows.
    """
    return kubernetes.core.v1.PersistentVolume(
        f"{scope.name}-home",
        metadata={"name": f"{scope.name}-home"},
        spec={
            "storage_class_name": storage_class,
            "capacity": {"storage": f"{settings.home_gib}Gi"},
            "access_modes": ["ReadWriteOnce"],
            "persistent_volume_reclaim_policy": "Retain",
            "claim_ref": {"namespace": settings.namespace, "name": home_claim(settings)},
            # Without a file system type the driver leaves the files to root: it ignores the pod's fsGroup.
            "csi": {"driver": driver, "volume_handle": handle, "fs_type": "ext4"},
            "node_affinity": {
                "required": {
                    "node_selector_terms": [
                        {"match_expressions": [{"key": zone_label, "operator": "In", "values": [zone]}]}
                    ]
                }
            },
        },
        opts=pulumi.ResourceOptions.merge(
            scope.options(ignore_changes=["spec.capacity"], replace_on_changes=["spec.claimRef"]),
            pulumi.ResourceOptions(delete_before_replace=True),
        ),
    )


def home_words(settings: ManagedSettings) -> str:
    """The end of the home at `pulumi destroy`, for the output `home`."""
    if not settings.home_gib:
        return "none: files are lost with the pod (homeGiB is 0)"
    if settings.keep_home:
        return "kept: pulumi destroy makes a snapshot first, and the next pulumi up restores it"
    return "deleted by pulumi destroy; to keep it: pulumi config set keepHome true && pulumi up"
