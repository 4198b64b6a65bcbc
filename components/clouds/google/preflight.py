"""What Google Cloud says of a place before anything is made there: zones, machine types, quotas.

Every refusal is a `CloudError` with what would do and the command for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi
import pulumi_gcp as gcp

from components.clouds import checks as cloud
from components.clouds import managed as cloud_cluster
from components.clouds import sizing
from components.clouds.base import PodSize
from components.clouds.google import compute

if TYPE_CHECKING:
    from components.clouds.google.cluster import GkeClusterArgs

DAEMONS = (PodSize(600, 800),)
"""What GKE's own daemonsets ask for on every node, together. Seen on GKE 1.29 (cryptnono/cryptnono#34): fluentbit 105m
and 230 MiB, metadata server 100m and 100 MiB, some 30m and 180 MiB for metrics agent, disk driver and netd; the rest is
room for Dataplane V2's agent. Generous on purpose: a worker may use CPU that it did not ask for."""

HYPERDISK_ALONE = ("c4", "c4d", "h4d", "m4", "n4", "n4d", "x4")
"""Families for x86-64 that take no persistent disk, not even to start from, but Hyperdisk
(https://cloud.google.com/compute/docs/disks/hyperdisks#machine-type-support). No data source tells."""

PLACES = "gcloud compute zones list, then pulumi config set region (or zone)"
ADC = "gcloud auth application-default login"
FIXES = (
    (r"default credentials|invalid_grant|reauth|oauth2: |unauthenticated|401", ADC),
    (
        r"SERVICE_DISABLED|has not been used in project|it is disabled",
        "gcloud services enable compute.googleapis.com container.googleapis.com artifactregistry.googleapis.com "
        "iam.googleapis.com file.googleapis.com (then wait a minute)",
    ),
    (r"'projects/[^'/]*' was not found", "check the project's ID (pulumi config set project ...), and your role in it"),
    (r"invalid value for field '(region|zone)'|unknown (region|zone)|/(regions|zones)/[^' ]*' was not found", PLACES),
    (r"project.*(not found|404)|403|permission|forbidden", "check the project's ID, and your role in it (docs/gke.md)"),
)


@dataclass(frozen=True)
class Site:
    """What Google says about the place and the machines."""

    system_zone: str
    """Zone of the system pool and of the disks."""
    worker_zones: tuple[str, ...]
    worker_machine: sizing.Machine
    system_machine: sizing.Machine


def find_site(args: GkeClusterArgs, opts: pulumi.InvokeOptions) -> Site:
    """Asks Google which zones there are and what the machine types are. Raises CloudError, with what would do."""
    zones = sorted(
        cloud.ask(
            f"the zones of region {args.region}",
            lambda: compute.zones(args.project, args.region, opts),
            FIXES,
        )
    )
    if not zones:
        raise cloud.CloudError(
            cloud.problem(f"region is {args.region!r}", "a region of Google Cloud", "gcloud compute regions list")
        )
    cloud_cluster.check_zone(args, zones)
    tried = [args.zone] if args.zone else zones
    offers = {zone: machine_types(args, zone, (args.machine_type, args.system_machine_type), opts) for zone in tried}
    system_zones = [zone for zone in tried if args.system_machine_type in offers[zone]]
    worker_zones = [zone for zone in tried if args.machine_type in offers[zone]]
    if not system_zones:
        raise not_offered("systemMachineType", args.system_machine_type, args, tried, opts)
    if not worker_zones:
        raise not_offered("machineType", args.machine_type, args, tried, opts)
    home, chosen = cloud_cluster.chosen_zones(args, system_zones, worker_zones)
    return Site(
        system_zone=home,
        worker_zones=chosen,
        worker_machine=offers[chosen[0]][args.machine_type],
        system_machine=offers[home][args.system_machine_type],
    )


def machine_types(
    args: GkeClusterArgs, zone: str, names: Sequence[str], opts: pulumi.InvokeOptions
) -> dict[str, sizing.Machine]:
    """Those of `names` (all, if empty) that a zone offers for x86-64, by name."""
    answer = cloud.ask(
        f"the machine types of zone {zone}",
        lambda: compute.machine_types(args.project, zone, tuple(names), opts),
        FIXES,
    )
    return {
        found["name"]: sizing.Machine(
            found["name"],
            int(found["guestCpus"]),
            int(found["memoryMb"]),
            shared_core=bool(found.get("isSharedCpus")),
        )
        for found in answer
        # Empty for older types, which are all x86-64. The image is built for that alone.
        if (found.get("architecture") or "X86_64") == "X86_64"
    }


def not_offered(
    key: str, wanted: str, args: GkeClusterArgs, zones: Sequence[str], opts: pulumi.InvokeOptions
) -> cloud.CloudError:
    """That a machine type is not to be had in any of `zones`, and what is."""
    place = f"zone {args.zone} does not offer" if args.zone else f"no zone of {args.region} offers"
    everything = machine_types(args, zones[0], (), opts)
    family = wanted.split("-")[0]
    near = sorted(name for name in everything if name.startswith(f"{family}-")) or sorted(
        name for name in everything if name.startswith("e2-standard")
    )
    return cloud.CloudError(
        cloud.problem(
            f"{key} is {wanted!r}, which {place} for x86-64",
            f"such as {', '.join(near[:8])}",
            f"pulumi config set {key} {near[0] if near else 'e2-standard-4'}",
        )
    )


def size_workers(args: GkeClusterArgs, site: Site, opts: pulumi.InvokeOptions) -> sizing.WorkerPool:
    """Nodes and worker size. Raises SizingError, naming types of the same zone that would do."""

    def others() -> list[sizing.Candidate]:
        # Common families rather than exotic ones.
        families = {args.machine_type.split("-")[0], "e2", "n2"}
        known = machine_types(args, site.worker_zones[0], (), opts).values()
        return [candidate(machine) for machine in known if machine.name.split("-")[0] in families]

    def candidate(machine: sizing.Machine) -> sizing.Candidate:
        return sizing.Candidate(machine, sizing.gke_capacity(machine))

    return cloud_cluster.size_workers(args, candidate(site.worker_machine), DAEMONS, others)


def boot_disk(machine_type: str) -> str:
    """The type of disk that nodes of this machine type start from."""
    return "hyperdisk-balanced" if machine_type.split("-")[0] in HYPERDISK_ALONE else "pd-balanced"


def check_system(args: GkeClusterArgs, site: Site) -> None:
    """Raises CloudError when the scheduler fits on no system node, or its disk cannot be attached to one.

    What else Kubernetes runs there can move to a second node, which the autoscaler adds; daemonsets cannot.
    """
    if boot_disk(args.system_machine_type) != "pd-balanced":
        raise cloud.CloudError(
            cloud.problem(
                f"systemMachineType is {args.system_machine_type!r}, which takes no persistent disk",
                "a type of another family, since /home/rstudio is on a persistent disk, such as e2-standard-2",
                "pulumi config set systemMachineType e2-standard-2",
            )
        )
    free = sizing.gke_capacity(site.system_machine).less(DAEMONS)
    cloud_cluster.check_scheduler(args, free, "the daemonsets", "e2-standard-4")


def check_quota(args: GkeClusterArgs, pool: sizing.WorkerPool, site: Site, opts: pulumi.InvokeOptions) -> None:
    """Raises CloudError when the nodes at their most need more CPUs than the project is allowed at all.

    Other machines of the project count too, which nobody tells; and a project that hides its quotas is not refused.
    """
    need = pool.max_nodes * site.worker_machine.vcpus + site.system_machine.vcpus
    for quota, where in (("CPUS-ALL-REGIONS-per-project", "all regions"), ("CPUS-per-project-region", args.region)):
        answer = cloud.ask_or_none(
            lambda quota=quota: gcp.cloudquota.get_s_quota_info(  # type: ignore[misc]
                parent=f"projects/{args.project}", service="compute.googleapis.com", quota_id=quota, opts=opts
            )
        )
        limits = [
            int(info.details[0].value)
            for info in (answer.dimensions_infos if answer else [])
            if info.details and (where == "all regions" or where in info.applicable_locations)
        ]
        if limits and 0 <= min(limits) < need:
            raise cloud.CloudError(
                cloud.problem(
                    f"maxWorkers is {args.max_workers}, for which {need} vCPUs are needed",
                    f"{min(limits)} vCPUs, the project's quota {quota} in {where}",
                    "ask for more at https://console.cloud.google.com/iam-admin/quotas, or set fewer workers",
                )
            )
