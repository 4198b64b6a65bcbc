"""Allocatable resources of EKS nodes, and what the daemon sets request of each. Pure: no I/O."""

from __future__ import annotations

from components.clouds.allocatable import EVICTION_MIB, Allocatable, Machine, memory_overhead, reserved_cpu
from components.clouds.base import PodSize

DAEMONS = (PodSize(100, 100), PodSize(100, 100), PodSize(40, 150), PodSize(20, 100), PodSize(40, 150), PodSize(20, 50))
"""One daemon set pod each: network, kube-proxy, disk driver, pod identity agent, file driver, monitoring agent. Their
charts request 50m, 100m, 30m and 120 MiB, nothing, 30m and 120 MiB, and 10m and 30 MiB. The rest is reserved for their
next versions."""

SYSTEM_PODS = (PodSize(400, 700),)
"""Requests of DNS, autoscaler, metrics server and drivers together, on the system node."""


def eks_allocatable(machine: Machine) -> Allocatable:
    """Allocatable resources of an EKS node of this machine type.

    The kubelet reserves 255 MiB and 11 MiB for each pod that the network interfaces have an address for
    (https://github.com/awslabs/amazon-eks-ami, `nodeadm/internal/kubelet/config.go`, getMemoryMebibytesToReserve). It
    accepts fewer pods than that: 110 up to 30 vCPUs, else 250
    (https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html).
    """
    memory = machine.memory_mib - (255 + 11 * machine.pods) - EVICTION_MIB - memory_overhead(machine)
    pods = min(machine.pods, 110 if machine.vcpus <= 30 else 250)
    return Allocatable(machine.vcpus * 1000 - reserved_cpu(machine.vcpus), memory, pods)


def worker_disk_gib(workers: int) -> int:
    """Root disk of a node for `workers`: 30 GiB for system and images, and 5 for the files and the log of each."""
    return 30 + 5 * workers


def disk_for_pods(disk_gib: int) -> int:
    """GiB of a root disk that pods may request, rounded down.

    The kubelet keeps 1 GiB (https://github.com/awslabs/amazon-eks-ami, `nodeadm`), and 10 % for eviction. The file
    system takes at most 3 %.
    """
    return int(0.97 * disk_gib * 0.9 - 1)
