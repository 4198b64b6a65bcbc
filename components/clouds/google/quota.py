"""Checks of a project's quotas before anything is created: CPUs of each machine family, and SSD.

Other machines of the project count too, but no data source reports them. What is hidden is not checked, and said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pulumi
import pulumi_gcp as gcp

from components.clouds.checks import MAX_REASON, CloudError, Refusal, problem, refusals
from components.clouds.google.allocatable import SYSTEM_DISK_GIB, boot_disk_type, worker_disk_gib
from components.clouds.google.location import Location
from components.clouds.google.settings import GkeSettings
from components.clouds.preflight import without_type
from components.clouds.sizing import WorkerPool

EVERYWHERE = "all regions"
GENERAL_FAMILIES = ("e2", "f1", "g1", "n1")
"""Families that share the quota CPUS. Every other one has a quota of its own, named after it
(https://cloud.google.com/compute/resource-usage#cpu_quota)."""

CONSOLE = "https://console.cloud.google.com/iam-admin/quotas"
UNCHECKED = (
    "not checked: {}, so Google may refuse machines or disks later. To have them checked: gcloud "
    "services enable cloudquotas.googleapis.com, and roles/cloudquotas.viewer and "
    "roles/serviceusage.serviceUsageConsumer for you. Reason: {}"
)


def check_quota(settings: GkeSettings, pool: WorkerPool, location: Location, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError when `maxWorkers` need more CPUs or SSD than the project's whole quota."""
    quotas = Quotas(settings, lookup)
    everywhere = quotas.limit("CPUS-ALL-REGIONS-per-project", EVERYWHERE)
    workers, system = pool.max_nodes * location.worker_machine.vcpus, location.system_machine.vcpus
    refuse_above(settings, "CPUS-ALL-REGIONS-per-project", EVERYWHERE, everywhere, workers + system, "vCPUs")
    own, own_limit = quotas.of_family(settings.system_machine_type)
    shared = quotas.of_workers(location)
    refuse_above(settings, own, settings.region, own_limit, system, "vCPUs")
    both = workers + (system if own in shared else 0)
    refuse_above(settings, " with ".join(shared), settings.region, together(list(shared.values())), both, "vCPUs")
    ssd = "SSD-TOTAL-GB-per-project-region"
    refuse_above(settings, ssd, settings.region, quotas.limit(ssd), ssd_gib(settings, pool), "GB of SSD")
    if quotas.hidden:
        reason = next(iter(quotas.hidden.values()))
        pulumi.log.info(UNCHECKED.format(", ".join(quotas.hidden), reason[:MAX_REASON]))


def ssd_gib(settings: GkeSettings, pool: WorkerPool) -> int:
    """Size of the persistent disks that count as SSD: boot disks and the home. Hyperdisk has a quota of its own."""
    # Nodes of a type with Hyperdisk can take the workers for which the quota has no room.
    kinds = {boot_disk_type(each) for each in (settings.machine_type, *settings.other_machine_types)}
    booting = pool.max_nodes if kinds == {"pd-balanced"} else 0
    return booting * worker_disk_gib(pool.workers_per_node) + SYSTEM_DISK_GIB + settings.home_gib


def refuse_above(settings: GkeSettings, quota: str, where: str, limit: int | None, need: int, unit: str) -> None:
    """Raises CloudError for a need above a limit. None is unknown, and -1 is no limit."""
    if limit is not None and 0 <= limit < need:
        raise CloudError(
            problem(
                f"maxWorkers is {settings.max_workers}, for which {need} {unit} are needed",
                f"{limit} {unit}, the project's quota {quota} in {where}",
                f"ask for more at {CONSOLE}, or set fewer workers",
            )
        )


class Quotas:
    """The quotas of Compute Engine that a project has in the stack's region."""

    def __init__(self, settings: GkeSettings, lookup: pulumi.InvokeOptions) -> None:
        self.settings = settings
        self.lookup = lookup
        self.hidden: dict[str, str] = {}
        """Quotas for which Google has refused the answer, with its reason. That one does not exist is an answer."""

    def limit(self, quota: str, where: str = "", family: str = "") -> int | None:
        """The smallest limit of a quota in the region, or in `all regions`. None where it is hidden or does not exist.

        family: the machine family, for the quota that has one as a dimension.
        """
        answer = None
        try:
            with refusals():
                answer = gcp.cloudquota.get_s_quota_info(
                    parent=f"projects/{self.settings.project}",
                    service="compute.googleapis.com",
                    quota_id=quota,
                    opts=self.lookup,
                )
        except Refusal as error:
            if not re.search(r"\b404\b|not.?found", str(error), re.IGNORECASE):
                self.hidden[quota] = " ".join(str(error).split())
        limits = [
            int(info.details[0].value)
            for info in (answer.dimensions_infos if answer else [])
            if info.details
            and (where == EVERYWHERE or self.settings.region in info.applicable_locations)
            and (not family or (info.dimensions or {}).get("vm_family", "").lower() == family)
        ]
        return min(limits, default=None)

    def of_family(self, machine_type: str) -> tuple[str, int | None]:
        """The quota of CPUs that a machine type counts in, and its limit."""
        family = machine_type.split("-")[0]
        if family in GENERAL_FAMILIES:
            quota = "CPUS-per-project-region"
            return quota, self.limit(quota)
        own, shared = f"{family.upper()}-CPUS-per-project-region", "CPUS-PER-VM-FAMILY-per-project-region"
        limit = self.limit(own)
        return (own, limit) if limit is not None else (shared, self.limit(shared, family=family))

    def of_workers(self, location: Location) -> dict[str, int | None]:
        """The workers' quotas and their limits: of each machine type's family, so that one has room for the others.

        Spot machines have a quota of their own where the project was given one; the family's is for the fallback then.
        Raises CloudError for a type of `otherMachineTypes` whose quota has no room for one node.
        """
        spot = "PREEMPTIBLE-CPUS-per-project-region"
        limit = self.limit(spot) if self.settings.spot else None
        own = dict([self.of_family(self.settings.machine_type)])
        if limit:
            return {spot: limit} | (own if self.settings.falls_back else {})
        for each in location.other_types:
            quota, room = self.of_family(each.machine.name)
            if room is not None and 0 <= room < each.machine.vcpus:
                raise CloudError(
                    problem(
                        f"otherMachineTypes has {each.machine.name}, of which a node has {each.machine.vcpus} vCPUs",
                        f"types for which the project has quota: {quota} is {room} in {self.settings.region}",
                        f"{without_type(self.settings, each.machine.name)}, or ask for more at {CONSOLE}",
                    )
                )
            own[quota] = room
        return own


def together(limits: Sequence[int | None]) -> int | None:
    """The sum of limits. None, which is unknown, where one is; -1, which is no limit, where one is that."""
    known = [limit for limit in limits if limit is not None]
    return None if len(known) < len(limits) else -1 if -1 in known else sum(known)
