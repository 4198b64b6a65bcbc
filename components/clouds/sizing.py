"""Pure arithmetic from wishes and machine facts to nodes, and to requests that the Kubernetes scheduler can place.

Facts about machines are arguments: the cloud's component asks the provider for them. Nothing here talks to anybody.
CPU is in millicores, memory in MiB, throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pulumi

from components.clouds.base import PodSize

MIN_WORKER_MEMORY_MIB = 64
"""A waiting R worker with the future packages takes some 60 MiB; less than this cannot start."""

EVICTION_MIB = 100
"""The hard eviction threshold of both GKE and EKS, which the kubelet takes off what is allocatable. Sources:
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes, and https://github.com/awslabs/amazon-eks-ami,
`nodeadm/internal/kubelet/config.go` (EvictionHard)."""

VM_MEMORY_OVERHEAD = 0.075
"""Share of a machine's nominal memory that kernel and firmware keep, so that a node reports less. Karpenter's default
(`VM_MEMORY_OVERHEAD_PERCENT`, https://karpenter.sh/docs/reference/settings/); large machines lose less than this."""


class SizingError(pulumi.RunError):
    """A wish that no node of the stack can hold."""


@dataclass(frozen=True)
class Machine:
    """A machine type as the cloud's catalogue has it, memory nominal; `pods` is the kubelet's limit on such a node."""

    name: str
    vcpus: int
    memory_mib: int
    pods: int = 110
    shared_core: bool = False
    """Google's e2-micro, e2-small and e2-medium, of which GKE reserves far more."""


@dataclass(frozen=True)
class Capacity:
    """What pods can have of one node."""

    cpu_millicores: int
    memory_mib: int
    pods: int = 110

    def less(self, pods: Iterable[PodSize]) -> Capacity:
        """What remains when each of `pods` has its place. May be negative, which then holds nothing."""
        taken = list(pods)
        return Capacity(
            self.cpu_millicores - sum(pod.cpu_millicores for pod in taken),
            self.memory_mib - sum(pod.memory_mib for pod in taken),
            self.pods - len(taken),
        )

    def count(self, pod: PodSize) -> int:
        """How many such pods fit beside one another."""
        return max(
            0,
            min(self.pods, self.cpu_millicores // pod.cpu_millicores, self.memory_mib // pod.memory_mib),
        )


def reserved_cpu(vcpus: int) -> int:
    """Millicores that GKE and EKS reserve: 6 % of the first core, 1 % of the second, 0.5 % of two more, 0.25 % after.

    Sources: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes (CPU reservations), and
    https://github.com/awslabs/amazon-eks-ami, `nodeadm/internal/kubelet/config.go` (getCPUMillicoresToReserve, which
    drops fractions). Rounded up to a whole millicore.
    """
    tenths, left = 0, vcpus  # of a millicore, which keeps the sum exact
    for cores, share in ((1, 600), (1, 100), (2, 50), (vcpus, 25)):
        tenths += min(cores, left) * share
        left -= min(cores, left)
    return -(-tenths // 10)


def gke_reserved_memory(memory_mib: int) -> int:
    """MiB that GKE reserves: 255 below 1 GiB, else 25 % of the first 4 GiB, 20 % of 4 more, 10 % of 8, 6 % of 112, 2 %.

    Source: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes (memory reservations).
    """
    if memory_mib < 1024:
        return 255
    reserved, left = 0.0, float(memory_mib)
    for gib, share in ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02)):
        part = min(gib * 1024, left)
        reserved += part * share
        left -= part
    return int(reserved) + 1


def gke_capacity(machine: Machine) -> Capacity:
    """What pods can have of a GKE node of this machine type.

    Shared-core machines lose 1060 millicores of their two vCPUs (same source as `gke_reserved_memory`).
    """
    cpu = machine.vcpus * 1000 - (1060 if machine.shared_core else reserved_cpu(machine.vcpus))
    memory = machine.memory_mib - gke_reserved_memory(machine.memory_mib) - EVICTION_MIB
    return Capacity(cpu, memory - overhead(machine), machine.pods)


def eks_capacity(machine: Machine) -> Capacity:
    """What pods can have of an EKS node of this machine type, which is 255 + 11 MiB a possible pod less, and the CPU.

    Source: https://github.com/awslabs/amazon-eks-ami, `nodeadm/internal/kubelet/config.go`
    (getMemoryMebibytesToReserve).
    """
    memory = machine.memory_mib - (255 + 11 * machine.pods) - EVICTION_MIB
    return Capacity(machine.vcpus * 1000 - reserved_cpu(machine.vcpus), memory - overhead(machine), machine.pods)


def overhead(machine: Machine) -> int:
    """MiB of the nominal memory that never reach the kubelet."""
    return int(machine.memory_mib * VM_MEMORY_OVERHEAD) + 1


@dataclass(frozen=True)
class Candidate:
    """A machine type and what pods can have of it, to be named when the one asked for is too small."""

    machine: Machine
    capacity: Capacity


@dataclass(frozen=True)
class WorkerPool:
    """A pool of like nodes: `nodes` hold the workers asked for, `max_nodes` the most that may be asked for."""

    machine: Machine
    worker: PodSize
    workers_per_node: int
    nodes: int
    max_nodes: int
    wasted_cpu_millicores: int
    """Over all `nodes`: what pods could have had and no worker asks for."""
    wasted_memory_mib: int

    def __str__(self) -> str:
        each = f"{self.workers_per_node} worker{'s' if self.workers_per_node != 1 else ''} each"
        text = f"{self.nodes} x {self.machine.name}, {each}"
        cores, gib = self.wasted_cpu_millicores / 1000, self.wasted_memory_mib / 1024
        # Less than this is rounding, and no machine type would save it.
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

    worker_cpu (cores) and worker_memory_gib are requests to be met exactly. What is None is shared out: by default
    there is one worker a vCPU, and each asks for its share of what pods can have, so that N workers fit on N vCPUs.
    The size of a worker does not depend on how many there are: scaling must not restart those that run.

    Raises SizingError where not one worker fits, naming those of `others` on which it would.
    """
    free = candidate.capacity.less(daemons)
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


def worker_on(machine: Machine, free: Capacity, cpu: float | None, memory_gib: float | None) -> PodSize | None:
    """The size of one worker where pods can have `free` of a node, or None where not one fits."""
    wished_cpu = None if cpu is None else max(1, round(cpu * 1000))
    wished_memory = None if memory_gib is None else max(1, round(memory_gib * 1024))
    floor = PodSize(wished_cpu or 1, wished_memory or MIN_WORKER_MEMORY_MIB)
    each = free.count(floor)
    if wished_cpu is None:
        each = min(each, machine.vcpus)
    if each < 1:
        return None
    return PodSize(wished_cpu or free.cpu_millicores // each, wished_memory or free.memory_mib // each)


def too_small(
    candidate: Candidate,
    daemons: Sequence[PodSize],
    worker_cpu: float | None,
    worker_memory_gib: float | None,
    others: Sequence[Candidate],
) -> str:
    """What to say when not one worker fits on a node."""
    free = candidate.capacity.less(daemons)
    wish = " and ".join(
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
            if worker_on(other.machine, other.capacity.less(daemons), worker_cpu, worker_memory_gib)
        ),
        key=lambda machine: (machine.vcpus, machine.memory_mib, machine.name),
    )
    names = [machine.name for machine in fitting[:5]]
    message = (
        f"a worker of {wish or 'any size'} does not fit on a node of type {candidate.machine.name}: of its "
        f"{candidate.machine.vcpus} vCPUs and {candidate.machine.memory_mib / 1024:g} GiB, pods can have "
        f"{max(0, free.cpu_millicores) / 1000:.2f} cores and {max(0, free.memory_mib) / 1024:.2f} GiB"
    )
    if names:
        return f"{message}\n    it fits on: {', '.join(names)}\n    fix: pulumi config set machineType {names[0]}"
    return f"{message}\n    fix: ask for less by workerCpu or workerMemoryGiB, or set a larger machineType"


SHARED_WORKER_MILLICORES = 20
SHARED_WORKER_MIB = 128
"""What a worker on stack `dev`'s one node asks for, unless told: an idle R worker with its agent takes some 70 MiB
there, and busy ones share the machine's cores. Its memory limit is a quarter of the node."""


def size_shared(
    *,
    max_workers: int,
    free: Capacity,
    scheduler: PodSize,
    worker_cpu: float | None = None,
    worker_memory_gib: float | None = None,
) -> PodSize:
    """The size of a worker on the one node of stack `dev`, where all share what is `free`.

    It does not depend on the number of workers: another number must not replace the pods that run, nor keep a second
    stack from the node. Raises SizingError where `max_workers` do not fit beside the scheduler.
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
        asked = f"{max_workers} workers of {cpu / 1000:g} cores and {memory / 1024:.2g} GiB each"
        what = f"there is room for {fitting}" if fitting else "there is no room for one"
        raise SizingError(
            f"this machine is too small for {asked}: beside the scheduler, {what} "
            f"({max(0, left.cpu_millicores) / 1000:.2f} cores and {max(0, left.memory_mib) / 1024:.1f} GiB are free)\n"
            f"    fix: pulumi config set {'maxWorkers' if fitting else 'workerMemoryGiB'} {fitting or 0.1}"
        )
    return worker
