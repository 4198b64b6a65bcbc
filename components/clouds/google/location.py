"""Finds where a stack on Google Cloud can run: zones, and the machine types there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from components.clouds.allocatable import Machine
from components.clouds.checks import CloudError, problem
from components.clouds.google import compute
from components.clouds.google.api import ask
from components.clouds.google.settings import GkeSettings
from components.clouds.preflight import check_same_size, check_zone, choose_zones, without_type


@dataclass(frozen=True)
class WorkerType:
    """A further machine type of workers, and the zones that offer it."""

    machine: Machine
    zones: tuple[str, ...]


@dataclass(frozen=True)
class Location:
    """Zones and machine types of a stack."""

    system_zone: str
    """Zone of the system pool and of the disks."""
    worker_zones: tuple[str, ...]
    worker_machine: Machine
    system_machine: Machine
    zones: tuple[str, ...] = ()
    """All zones of the region."""
    other_types: tuple[WorkerType, ...] = ()
    """Types of `otherMachineTypes` in their order, without `worker_machine`."""

    @property
    def worker_machines(self) -> tuple[Machine, ...]:
        """All machine types of the workers' nodes, that of `machineType` first."""
        return (self.worker_machine, *(each.machine for each in self.other_types))


@dataclass(frozen=True)
class Project:
    """The project's number, and the ID of the billing account that pays for it. Both are empty where nothing asks."""

    number: str = ""
    billing_account: str = ""


def find_project(settings: GkeSettings, lookup: pulumi.InvokeOptions) -> Project:
    """The project, for the grants on `buckets` and the budget. Raises CloudError where Google does not say it."""
    if not settings.buckets and not settings.monthly_budget:
        return Project()
    found = ask(
        f"the number of project {settings.project}, and which billing account pays for it",
        lambda: gcp.organizations.get_project(project_id=settings.project, opts=lookup),
    )
    return Project(str(found.number), found.billing_account or "")


def find_location(settings: GkeSettings, lookup: pulumi.InvokeOptions) -> Location:
    """The zones that offer the requested machine types. Raises CloudError where there are none."""
    zones = region_zones(settings, lookup)
    check_zone(settings, zones)
    tried = [settings.zone] if settings.zone else zones
    wanted = (settings.machine_type, settings.system_machine_type, *settings.other_machine_types)
    offers = {zone: machine_types(settings, zone, wanted, lookup) for zone in tried}
    system_zones = [zone for zone in tried if settings.system_machine_type in offers[zone]]
    worker_zones = [zone for zone in tried if settings.machine_type in offers[zone]]
    if not system_zones:
        raise not_offered("systemMachineType", settings.system_machine_type, settings, tried, lookup)
    if not worker_zones:
        raise not_offered("machineType", settings.machine_type, settings, tried, lookup)
    system_zone, chosen = choose_zones(settings, system_zones, worker_zones)
    worker = offers[chosen[0]][settings.machine_type]
    return Location(
        system_zone=system_zone,
        worker_zones=chosen,
        worker_machine=worker,
        system_machine=offers[system_zone][settings.system_machine_type],
        zones=tuple(zones),
        other_types=other_types(settings, worker, offers, lookup),
    )


def other_types(
    settings: GkeSettings, first: Machine, offers: Mapping[str, Mapping[str, Machine]], lookup: pulumi.InvokeOptions
) -> tuple[WorkerType, ...]:
    """The types of `otherMachineTypes`, each with all zones of `offers` that have it.

    Raises CloudError for one that no zone offers, and for one of another size than the `first` type.
    """
    found = []
    for name in dict.fromkeys(settings.other_machine_types):
        zones = tuple(zone for zone, offered in offers.items() if name in offered)
        if name == first.name:
            continue
        if not zones:
            raise not_offered("otherMachineTypes", name, settings, list(offers), lookup)
        check_same_size(settings, first, offers[zones[0]][name])
        found.append(WorkerType(offers[zones[0]][name], zones))
    return tuple(found)


def region_zones(settings: GkeSettings, lookup: pulumi.InvokeOptions) -> list[str]:
    """The zones of the region, sorted. Raises CloudError for a region that does not exist."""
    zones = ask(
        f"the zones of region {settings.region}",
        lambda: compute.zones(settings.project, settings.region, lookup),
    )
    if not zones:
        raise CloudError(
            problem(f"region is {settings.region!r}", "a region of Google Cloud", "gcloud compute regions list")
        )
    return sorted(zones)


def machine_types(
    settings: GkeSettings, zone: str, names: Sequence[str], lookup: pulumi.InvokeOptions
) -> dict[str, Machine]:
    """The machine types for x86-64, without accelerators, that a zone offers, by name.

    names: look up only these; empty for all.
    """
    answer = ask(
        f"the machine types of zone {zone}",
        lambda: compute.machine_types(settings.project, zone, tuple(names), lookup),
    )
    return {
        found["name"]: Machine(
            found["name"],
            int(found["guestCpus"]),
            int(found["memoryMb"]),
            shared_core=bool(found.get("isSharedCpus")),
        )
        for found in answer
        # Older types, all for x86-64, report no architecture. The image is built only for x86-64. An accelerator that
        # nothing in the image uses would idle at full price, after a first start that its quota may refuse.
        if (found.get("architecture") or "X86_64") == "X86_64" and not found.get("accelerators")
    }


def not_offered(
    key: str, wanted: str, settings: GkeSettings, zones: Sequence[str], lookup: pulumi.InvokeOptions
) -> CloudError:
    """The error for a machine type that none of `zones` offers, with types on offer."""
    listed = key == "otherMachineTypes"
    place = f"zone {settings.zone} does not offer" if settings.zone else f"no zone of {settings.region} offers"
    offered = machine_types(settings, zones[0], (), lookup)
    family = wanted.split("-")[0]
    near = sorted(name for name in offered if name.startswith(f"{family}-")) or sorted(
        name for name in offered if name.startswith("e2-standard")
    )
    return CloudError(
        problem(
            f"{key} {'has' if listed else 'is'} {wanted!r}, which {place} for x86-64 without an accelerator",
            f"such as {', '.join(near[:8])}",
            without_type(settings, wanted) if listed else f"pulumi config set {key} {(near or ['e2-standard-4'])[0]}",
        )
    )
