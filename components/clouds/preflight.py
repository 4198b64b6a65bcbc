"""Checks and choices before anything is created, the same on Google Cloud and AWS.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from components.clouds.allocatable import Allocatable, Machine
from components.clouds.base import PodSize, scheduler_size
from components.clouds.checks import CloudError, problem
from components.clouds.settings import ManagedSettings
from components.clouds.sizing import Candidate, SizingError, WorkerPool, size_pool


def check_zone(settings: ManagedSettings, zones: Sequence[str]) -> None:
    """Raises CloudError when the requested zone is not one of the region's `zones`."""
    if settings.zone and settings.zone not in zones:
        raise CloudError(
            problem(
                f"zone is {settings.zone!r}",
                f"a zone of region {settings.region} that Kubernetes may use: {', '.join(zones)}",
                f"pulumi config set zone {zones[0]}",
            )
        )


def choose_zones(
    settings: ManagedSettings, system: Sequence[str], workers: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """The system node's zone and the workers' zones.

    system, workers: the zones, at least one each, that offer the machine type of each.
    """
    # No setting of the workers may move the scheduler to another zone: its disk could not follow.
    home = system[0]
    # Traffic between zones is billed, so spread only where spot capacity may run out and the autoscaler picks the zone.
    if settings.spot:
        return home, tuple(workers)
    return home, (home if home in workers else workers[0],)


def check_same_size(settings: ManagedSettings, first: Machine, found: Machine) -> None:
    """Raises CloudError where a type of `otherMachineTypes` differs from the `first` type: sizing is of one size."""
    if (found.vcpus, found.memory_mib, found.shared_core) == (first.vcpus, first.memory_mib, first.shared_core):
        return
    sharing = " and no share of a core" if found.shared_core and not first.shared_core else ""
    raise CloudError(
        problem(
            f"otherMachineTypes has {found.name}, which has {found.vcpus} vCPUs and {found.memory_mib / 1024:g} GiB",
            f"types with {first.vcpus} vCPUs and {first.memory_mib / 1024:g} GiB{sharing}, like {first.name}",
            without_type(settings, found.name),
        )
    )


def without_type(settings: ManagedSettings, name: str) -> str:
    """The command that takes a machine type out of `otherMachineTypes`."""
    rest = ",".join(each for each in settings.other_machine_types if each != name)
    return f"pulumi config set otherMachineTypes {rest}" if rest else "pulumi config rm otherMachineTypes"


def pool_candidate(machines: Sequence[Machine], allocatable: Callable[[Machine], Allocatable]) -> Candidate:
    """The first of several machine types, with what is allocatable on each of them."""
    each = [allocatable(machine) for machine in machines]
    return Candidate(
        machines[0],
        Allocatable(
            min(one.cpu_millicores for one in each), min(one.memory_mib for one in each), min(one.pods for one in each)
        ),
    )


def size_workers(
    settings: ManagedSettings,
    candidate: Candidate,
    daemons: Sequence[PodSize],
    others: Callable[[], Iterable[Candidate]],
) -> WorkerPool:
    """The worker pool's node counts and pod requests. Raises SizingError, naming machine types that are large enough.

    others: looks up further machine types. Called only for the error, because it takes several requests.
    """
    size = partial(
        size_pool,
        workers=settings.workers,
        max_workers=settings.max_workers,
        candidate=candidate,
        daemons=daemons,
        worker_cpu=settings.worker_cpu,
        worker_memory_gib=settings.worker_memory_gib,
    )
    try:
        return size()
    except SizingError:
        return size(others=list(others()))


def check_scheduler(settings: ManagedSettings, free: Allocatable, beside: str, larger: str) -> None:
    """Raises CloudError when the scheduler does not fit into the `free` resources of a system node.

    beside: the pods that take the rest, for the message. larger: a machine type for the fix.
    """
    scheduler = scheduler_size(settings)
    if free.count(scheduler) < 1:
        raise CloudError(
            problem(
                f"the scheduler requests {scheduler.cpu_millicores / 1000:g} cores and "
                f"{scheduler.memory_mib / 1024:g} GiB (schedulerCpu, schedulerMemoryGiB)",
                f"at most {max(0, free.cpu_millicores) / 1000:.2f} cores and {max(0, free.memory_mib) / 1024:.2f} GiB, "
                f"which a {settings.system_machine_type} has beside {beside}",
                f"pulumi config set systemMachineType {larger} (or a larger one)",
            )
        )
