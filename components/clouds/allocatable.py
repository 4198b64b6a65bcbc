"""Allocatable resources of a node, and the reservations that GKE and EKS share. Pure: no I/O.

Kubernetes calls *allocatable* what pods may request of a node: its capacity less what kernel and kubelet reserve. CPU
is in millicores and memory in MiB throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.clouds.base import PodSize

EVICTION_MIB = 100
"""Hard eviction threshold on GKE and EKS, which the kubelet subtracts from allocatable memory. Sources:
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes, and https://github.com/awslabs/amazon-eks-ami,
`nodeadm/internal/kubelet/config.go` (EvictionHard)."""

VM_MEMORY_OVERHEAD = 0.075
"""Share of a machine's nominal memory that kernel and firmware keep, so that a node reports less. Karpenter's default
(`VM_MEMORY_OVERHEAD_PERCENT`, https://karpenter.sh/docs/reference/settings/); large machines lose less than this."""


@dataclass(frozen=True)
class Machine:
    """A machine type from the cloud's catalogue. Memory is nominal; `pods` is the kubelet's limit on such a node."""

    name: str
    vcpus: int
    memory_mib: int
    pods: int = 110
    shared_core: bool = False
    """Google's e2-micro, e2-small and e2-medium, of which GKE reserves far more."""


@dataclass(frozen=True)
class Allocatable:
    """Resources that pods may request of one node."""

    cpu_millicores: int
    memory_mib: int
    pods: int = 110

    def less(self, pods: Iterable[PodSize]) -> Allocatable:
        """The rest after the requests of `pods`. May be negative, and then fits nothing."""
        taken = list(pods)
        return Allocatable(
            self.cpu_millicores - sum(pod.cpu_millicores for pod in taken),
            self.memory_mib - sum(pod.memory_mib for pod in taken),
            self.pods - len(taken),
        )

    def count(self, pod: PodSize) -> int:
        """The number of such pods that fit."""
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
    tenths, left = 0, vcpus  # tenths of a millicore keep the sum exact
    for cores, share in ((1, 600), (1, 100), (2, 50), (vcpus, 25)):
        tenths += min(cores, left) * share
        left -= min(cores, left)
    return -(-tenths // 10)


def memory_overhead(machine: Machine) -> int:
    """MiB of the nominal memory that the kubelet never sees."""
    return int(machine.memory_mib * VM_MEMORY_OVERHEAD) + 1
