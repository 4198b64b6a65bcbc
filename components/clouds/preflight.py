"""Checks and choices before anything is created, the same on Google Cloud and AWS.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from components.clouds.allocatable import Allocatable
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
