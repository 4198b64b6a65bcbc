"""Allocatable resources of GKE nodes, and what the daemon sets request of each. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from components.clouds.allocatable import EVICTION_MIB, Allocatable, Machine, memory_overhead, reserved_cpu
from components.clouds.base import PodSize

DAEMONS = (PodSize(600, 800),)
"""Requests of GKE's own daemon sets on every node, together. Seen on GKE 1.29 (cryptnono/cryptnono#34): fluentbit 105m
and 230 MiB, metadata server 100m and 100 MiB, some 30m and 180 MiB for metrics agent, disk driver and netd. The rest is
reserved for Dataplane V2's agent. Generous on purpose: a worker may use CPU beyond its request."""

SHARED_CORE_RESERVED_MILLICORES = 1060
"""CPU that GKE reserves of the two vCPUs of a shared-core machine
(https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes)."""

HYPERDISK_ONLY = ("c4", "c4d", "h4d", "m4", "n4", "n4d", "x4")
"""Families for x86-64 that accept no persistent disk, not even to boot from, but only Hyperdisk
(https://cloud.google.com/compute/docs/disks/hyperdisks#machine-type-support). No data source reports it."""

SYSTEM_DISK_GIB = 50
"""Boot disk of a system node, which holds the images and the scheduler's temporary files. The least of a worker's."""


def worker_disk_gib(workers: int) -> int:
    """Boot disk of a node for `workers`, which holds the image, their temporary files and logs.

    8 GiB each leave more than their requests: see `disk_for_pods`.
    """
    return max(SYSTEM_DISK_GIB, 18 + 8 * workers)


def disk_for_pods(disk_gib: int) -> float:
    """GiB of a boot disk that pods may request.

    The operating system takes some 6 GiB. GKE reserves a share for images and system, and the kubelet 10 % for eviction
    (https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes, which shows 43.8 GiB of 100).
    """
    return 0.9 * (disk_gib - 6) - min(0.5 * disk_gib, 6 + 0.35 * disk_gib, 100)


def boot_disk_type(machine_type: str) -> str:
    """The type of boot disk for nodes of this machine type."""
    return "hyperdisk-balanced" if machine_type.split("-")[0] in HYPERDISK_ONLY else "pd-balanced"


def gke_reserved_memory(memory_mib: int) -> int:
    """MiB that GKE reserves: 255 below 1 GiB, else 25 % of the first 4 GiB, 20 % of 4 more, 10 % of 8, 6 % of 112, 2 %.

    Source: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes (memory reservations).
    """
    if memory_mib < 1024:
        return 255
    return shares(memory_mib, (0.25, 0.20, 0.10, 0.06, 0.02))


def streaming_reserved_memory(memory_mib: int) -> int:
    """MiB that GKE reserves for image streaming: none below 1 GiB, else 10 %, 8 %, 4 %, 2.4 % and 0.8 % of the steps.

    The page of image streaming has these shares under "memory reservation". They were taken from a public program for
    it (hatemosphere/gke-node-allocatable-memory-calculator), and are not seen on a node: too much leaves memory unused.
    """
    return 0 if memory_mib < 1024 else shares(memory_mib, (0.10, 0.08, 0.04, 0.024, 0.008))


def shares(memory_mib: int, parts: Sequence[float]) -> int:
    """MiB of a share of the first 4 GiB, the next 4, the next 8, the next 112, and the rest."""
    reserved, left = 0.0, float(memory_mib)
    for gib, share in zip((4, 4, 8, 112, float("inf")), parts, strict=True):
        part = min(gib * 1024, left)
        reserved += part * share
        left -= part
    return int(reserved) + 1


def gke_allocatable(machine: Machine, *, streaming: bool = False) -> Allocatable:
    """Allocatable resources of a GKE node of this machine type. streaming: the node streams images."""
    reserved = SHARED_CORE_RESERVED_MILLICORES if machine.shared_core else reserved_cpu(machine.vcpus)
    memory = machine.memory_mib - gke_reserved_memory(machine.memory_mib) - EVICTION_MIB - memory_overhead(machine)
    if streaming:
        memory -= streaming_reserved_memory(machine.memory_mib)
    return Allocatable(machine.vcpus * 1000 - reserved, memory, machine.pods)
