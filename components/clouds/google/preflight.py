"""Checks of a stack on Google Cloud before anything is created: buckets, budget, machine sizes, disks, quotas.

Every refusal is a CloudError with what is allowed and the command that fixes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pulumi

from components.clouds import preflight
from components.clouds.allocatable import Machine
from components.clouds.checks import CloudError, problem
from components.clouds.google.allocatable import DAEMONS, boot_disk_type, gke_allocatable
from components.clouds.google.buckets import check_buckets
from components.clouds.google.budget import check_budget
from components.clouds.google.location import Location, Project, find_location, find_project, machine_types
from components.clouds.google.nodes import MAX_SYSTEM_NODES
from components.clouds.google.quota import check_quota
from components.clouds.google.ranges import ranges_of
from components.clouds.google.settings import DEFAULT_VPC_CIDR, GkeSettings
from components.clouds.google.streaming import streams_images
from components.clouds.google.versions import check_version
from components.clouds.sizing import Candidate, WorkerPool

MAX_NODES = ranges_of(DEFAULT_VPC_CIDR).max_nodes


@dataclass(frozen=True)
class Findings:
    """Results of the checks."""

    project: Project
    location: Location
    pool: WorkerPool
    streaming: bool
    """True if the workers' nodes stream images."""
    upgrade: bool
    """True if this update must bring the nodes to `kubernetesVersion`."""


def check(settings: GkeSettings, lookup: pulumi.InvokeOptions, paying: pulumi.InvokeOptions) -> Findings:
    """Raises CloudError or SizingError for what Google would refuse later.

    paying: like `lookup`, for APIs that the project must pay for: those of quotas and budgets.
    """
    # Only a budget needs the billing account, whose API is one of these.
    project = find_project(settings, paying if settings.monthly_budget else lookup)
    check_buckets(settings, project.number, lookup)
    check_budget(settings, project.billing_account, paying)
    location = find_location(settings, lookup)
    streaming = streams_images(settings, lookup)
    pool = size_workers(settings, location, lookup, streaming=streaming)
    check_system(settings, location)
    check_pod_range(settings, pool)
    check_quota(settings, pool, location, paying)
    return Findings(project, location, pool, streaming, check_version(settings, lookup))


def size_workers(
    settings: GkeSettings, location: Location, lookup: pulumi.InvokeOptions, *, streaming: bool
) -> WorkerPool:
    """Node counts and pod requests. Raises SizingError, naming larger types of the same zone."""

    def candidate(machine: Machine) -> Candidate:
        return Candidate(machine, gke_allocatable(machine, streaming=streaming))

    def others() -> list[Candidate]:
        # Common families rather than rare ones.
        families = {settings.machine_type.split("-")[0], "e2", "n2"}
        known = machine_types(settings, location.worker_zones[0], (), lookup).values()
        return [candidate(machine) for machine in known if machine.name.split("-")[0] in families]

    smallest = preflight.pool_candidate(location.worker_machines, partial(gke_allocatable, streaming=streaming))
    return preflight.size_workers(settings, smallest, DAEMONS, others)


def check_system(settings: GkeSettings, location: Location) -> None:
    """Raises CloudError when the scheduler fits on no system node, or its disk cannot be attached to one.

    The other system pods can move to a second node, which the autoscaler adds. Daemon sets cannot.
    """
    if boot_disk_type(settings.system_machine_type) != "pd-balanced":
        raise CloudError(
            problem(
                f"systemMachineType is {settings.system_machine_type!r}, which takes no persistent disk",
                "a type of another family, since /home/rstudio is on a persistent disk, such as e2-standard-2",
                "pulumi config set systemMachineType e2-standard-2",
            )
        )
    free = gke_allocatable(location.system_machine).less(DAEMONS)
    preflight.check_scheduler(settings, free, "the daemon sets", "e2-standard-4")


def check_pod_range(settings: GkeSettings, pool: WorkerPool) -> None:
    """Raises CloudError when `maxWorkers` need more nodes than the pods' range has room for.

    In a given network GKE takes a range of the default's size for the pods.
    """
    ranges = ranges_of(settings.vpc_cidr)
    room = ranges.max_nodes - MAX_SYSTEM_NODES - 1  # one more during an upgrade
    if pool.max_nodes > room:
        raise CloudError(
            problem(
                f"maxWorkers is {settings.max_workers}, for which {pool.max_nodes} nodes are needed",
                f"{room} nodes of workers, each with a /24 of the pods' /{ranges.pods.prefixlen}",
                f"pulumi config set maxWorkers {room * pool.workers_per_node}, or set a larger machineType"
                + ("" if settings.network or ranges.max_nodes == MAX_NODES else " or a larger vpcCidr"),
            )
        )
