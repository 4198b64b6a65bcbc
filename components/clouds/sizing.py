"""Computes node counts and pod requests from the requested worker size and the machine type. No I/O.

The cloud's component asks the provider for facts about machines and passes them in. CPU is in millicores and memory in
MiB throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.clouds.allocatable import Allocatable, Machine
from components.clouds.base import PodSize
from components.clouds.checks import problem

MIN_WORKER_MEMORY_MIB = 64
"""An idle R worker with the future packages takes some 60 MiB; with less it cannot start."""


class SizingError(pulumi.RunError):
    """No node of the stack can hold the requested worker."""


@dataclass(frozen=True)
class Candidate:
    """A machine type and its allocatable resources. An error names it where the requested type is too small."""

    machine: Machine
    allocatable: Allocatable


@dataclass(frozen=True)
class WorkerPool:
    """A pool of equal nodes: `nodes` hold the requested workers, `max_nodes` hold `maxWorkers`."""

    machine: Machine
    worker: PodSize
    workers_per_node: int
    nodes: int
    max_nodes: int
    wasted_cpu_millicores: int
    """Allocatable CPU that no worker requests, over all `nodes`."""
    wasted_memory_mib: int

    def nodes_for(self, workers: int) -> int:
        """Number of nodes that hold so many workers."""
        return -(-workers // self.workers_per_node)

    def __str__(self) -> str:
        each = f"{self.workers_per_node} worker{'s' if self.workers_per_node != 1 else ''} each"
        text = f"{self.nodes} x {self.machine.name}, {each}"
        cores, gib = self.wasted_cpu_millicores / 1000, self.wasted_memory_mib / 1024
        # Less than this is rounding, which no other machine type would save.
        if cores >= 0.1 * self.nodes or gib >= 0.25 * self.nodes:
            text += f" (unused: {cores:.1f} cores and {gib:.1f} GiB)"
        return text


def size_pool(
    *,
    workers: int,
    max_workers: int,
    candidate: Candidate,
    daemons: Sequence[PodSize] = (),
    worker_cpu: float | None = None,
    worker_memory_gib: float | None = None,
    others: Sequence[Candidate] = (),
) -> WorkerPool:
    """The pool that holds `workers` on nodes of one machine type, next to each node's `daemons`.

    worker_cpu (cores) and worker_memory_gib become the exact requests. For each that is None, a node's allocatable
    resources are divided: by default one worker a vCPU, so that N workers fit on N vCPUs. The requests do not depend on
    the number of workers: a change of them restarts running workers, and scaling must not.

    Raises SizingError where no worker fits. The message names those of `others` on which one would.
    """
    free = candidate.allocatable.less(daemons)
    worker = worker_on(candidate.machine, free, worker_cpu, worker_memory_gib)
    if worker is None:
        raise SizingError(too_small(candidate, daemons, worker_cpu, worker_memory_gib, others))
    each = free.count(worker)
    if worker_cpu is None:
        each = min(each, candidate.machine.vcpus)
    nodes = -(-workers // each)
    return WorkerPool(
        machine=candidate.machine,
        worker=worker,
        workers_per_node=each,
        nodes=nodes,
        max_nodes=-(-max_workers // each),
        wasted_cpu_millicores=nodes * free.cpu_millicores - workers * worker.cpu_millicores,
        wasted_memory_mib=nodes * free.memory_mib - workers * worker.memory_mib,
    )


def worker_on(machine: Machine, free: Allocatable, cpu: float | None, memory_gib: float | None) -> PodSize | None:
    """Requests of one worker on a node with `free` allocatable resources. None where no worker fits."""
    wanted_cpu = None if cpu is None else max(1, round(cpu * 1000))
    wanted_memory = None if memory_gib is None else max(1, round(memory_gib * 1024))
    smallest = PodSize(wanted_cpu or 1, wanted_memory or MIN_WORKER_MEMORY_MIB)
    each = free.count(smallest)
    if wanted_cpu is None:
        each = min(each, machine.vcpus)
    if each < 1:
        return None
    return PodSize(wanted_cpu or free.cpu_millicores // each, wanted_memory or free.memory_mib // each)


def too_small(
    candidate: Candidate,
    daemons: Sequence[PodSize],
    worker_cpu: float | None,
    worker_memory_gib: float | None,
    others: Sequence[Candidate],
) -> str:
    """The message for a machine type on which no worker fits, with types that are large enough."""
    free = candidate.allocatable.less(daemons)
    requests = " and ".join(
        part
        for part in (
            f"{worker_cpu:g} cores (workerCpu)" if worker_cpu else "",
            f"{worker_memory_gib:g} GiB (workerMemoryGiB)" if worker_memory_gib else "",
        )
        if part
    )
    fitting = sorted(
        (
            other.machine
            for other in others
            if worker_on(other.machine, other.allocatable.less(daemons), worker_cpu, worker_memory_gib)
        ),
        key=lambda machine: (machine.vcpus, machine.memory_mib, machine.name),
    )
    names = [machine.name for machine in fitting[:5]]
    return problem(
        f"a worker of {requests or 'any size'} does not fit on a node of type {candidate.machine.name}: of its "
        f"{candidate.machine.vcpus} vCPUs and {candidate.machine.memory_mib / 1024:g} GiB, pods can request "
        f"{max(0, free.cpu_millicores) / 1000:.2f} cores and {max(0, free.memory_mib) / 1024:.2f} GiB",
        f"a type on which it fits: {', '.join(names)}" if names else "a smaller worker, or a larger machineType",
        f"pulumi config set machineType {names[0]}" if names else "lower workerCpu or workerMemoryGiB",
    )


SHARED_WORKER_MILLICORES = 20
SHARED_WORKER_MIB = 128
"""Default requests of a worker on the one node of stack `dev`. An idle R worker with its agent takes some 70 MiB there,
and busy workers share the machine's cores. The memory limit is a quarter of the node."""


def size_shared(
    *,
    max_workers: int,
    free: Allocatable,
    scheduler: PodSize,
    worker_cpu: float | None = None,
    worker_memory_gib: float | None = None,
) -> PodSize:
    """Requests of a worker on the one node of stack `dev`, where all pods share the `free` resources.

    They do not depend on the number of workers. Otherwise scaling would replace running pods, and one stack could keep
    a second one off the node. Raises SizingError where `max_workers` do not fit beside the scheduler.
    """
    left = free.less([scheduler])
    cpu = max(1, round(worker_cpu * 1000)) if worker_cpu else SHARED_WORKER_MILLICORES
    if worker_memory_gib:
        memory = limit = max(1, round(worker_memory_gib * 1024))
    else:
        memory, limit = SHARED_WORKER_MIB, max(1024, free.memory_mib // 4)
    worker = PodSize(cpu, memory, limit)
    fitting = left.count(worker)
    if fitting < max_workers:
        room = f"room for {fitting}" if fitting else "no room for one"
        free_gib = max(0, left.memory_mib) / 1024
        raise SizingError(
            problem(
                f"this machine is too small for {max_workers} workers of {cpu / 1000:g} cores and "
                f"{memory / 1024:.2g} GiB each",
                f"beside the scheduler there is {room} ({max(0, left.cpu_millicores) / 1000:.2f} cores and "
                f"{free_gib:.1f} GiB are free)",
                f"pulumi config set {'maxWorkers' if fitting else 'workerMemoryGiB'} {fitting or 0.1}",
            )
        )
    return worker
