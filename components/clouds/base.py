"""What a cluster component gives to the rest of the program, whichever cloud made it.

`GkeCluster`, `EksCluster`, `KubeconfigCluster` and `LocalCluster` are subclasses of `Cluster`. The release, the image
and the outputs read these attributes alone, so that nothing after the cluster knows which cloud it is on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.settings.model import Settings

WORKER_NODE_LABEL = "future-kubernetes/role"
"""Label on the nodes of a workers' pool, with the value `worker`; a system pool has the value `system`."""

WORKER_TAINT = {"key": "future-kubernetes/worker", "value": "true", "effect": "NoSchedule"}
"""Taint of a workers' pool, so that nothing but workers (and daemonsets) costs a worker its place."""


@dataclass(frozen=True)
class Placement:
    """Where pods of one kind go.

    node_selector: labels that a node must have. tolerations: maps of `key`, `operator`, `value` and `effect`.
    affinity: Kubernetes' own `affinity` of a pod.
    """

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, str]] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)


WORKER_TOLERATION = {**WORKER_TAINT, "operator": "Equal"}

GUEST_PLACEMENT = Placement(
    tolerations=(WORKER_TOLERATION,),
    affinity={
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": WORKER_NODE_LABEL, "operator": "NotIn", "values": ["system"]}]}
                ]
            }
        }
    },
)
"""Where workers go on a cluster that is there already: anywhere but onto system nodes that another stack made.

On such a cluster the other stack's workers' pool remains. The toleration opens it, and an autoscaler sees that it
would do even while it has no node. NotIn holds for nodes without the label too, so that on any other cluster all nodes
remain, and the toleration means nothing there. The same everywhere, rather than by what the nodes say: not everybody
may ask for nodes, and a pool at rest has none to say anything.
"""


@dataclass(frozen=True)
class PodSize:
    """Requests of one pod: `cpu_millicores` in thousandths of a core, `memory_mib` in MiB.

    memory_limit_mib: the most memory that it may take; None makes it the request, so that a node is never overbooked.
    """

    cpu_millicores: int
    memory_mib: int
    memory_limit_mib: int | None = None


def scheduler_size(settings: Settings) -> PodSize:
    """Requests of the scheduler, as the settings have them."""
    return PodSize(round(settings.scheduler_cpu * 1000), round(settings.scheduler_memory_gib * 1024))


@dataclass(frozen=True)
class ImageRegistry:
    """A registry that the program may push the image to.

    repository: full name without a tag, such as `us-west1-docker.pkg.dev/p/r/future-kubernetes`.
    server, username, password: what `docker login` takes; the password is short-lived, and a secret once it is used.
    oci_cache: whether the registry wants cache manifests as OCI images (ECR does), see
    https://docs.docker.com/build/cache/backends/registry/. platform: what the nodes run.
    """

    repository: pulumi.Input[str]
    server: pulumi.Input[str]
    username: pulumi.Input[str]
    password: pulumi.Input[str]
    oci_cache: bool = False
    platform: str = "linux/amd64"


@dataclass(frozen=True)
class PublicAccess:
    """What the cluster needs on the Ingress and Service of the IDE when `host` is set.

    ingress_class: name of the ingress class. annotations: on the Ingress, such as the certificate's.
    """

    ingress_class: str = ""
    annotations: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class Cluster(pulumi.ComponentResource):
    """Base of every cluster component. A subclass sets each attribute before it calls `register_outputs`."""

    provider: kubernetes.Provider
    """Talks to the cluster; `cluster_identifier` is set, so that a changed kubeconfig replaces nothing."""

    kubeconfig: pulumi.Output[str]
    """A whole kubeconfig as text; a secret."""

    kubeconfig_command: pulumi.Input[str]
    """The command with which a person gets credentials, such as `gcloud container clusters get-credentials ...`."""

    kubectl: pulumi.Input[str] = "kubectl"
    """How kubectl is called for this cluster, once `kubeconfig_command` has been run."""

    registry: ImageRegistry | None = None
    """Where the image is pushed; None where the cluster brings none, and `image` must then be given."""

    worker_placement: Placement = Placement()
    scheduler_placement: Placement = Placement()

    worker_size: PodSize
    """Requests of one worker, from sizing."""

    scheduler_size: PodSize
    """Requests of the scheduler."""

    home_storage_class: pulumi.Input[str] | None = None
    """Storage class of the scheduler's home; None takes the cluster's default."""

    shared_storage_class: pulumi.Input[str] | None = None
    """ReadWriteMany storage class for /shared; None takes the cluster's default."""

    public_access: PublicAccess = PublicAccess()

    public_address: pulumi.Input[str | None] = None
    """The load balancer's address or name, to which the DNS record of `host` must point."""

    nodes: pulumi.Input[str]
    """The nodes in words, such as `10 x e2-standard-4 (autoscaled 0 to 10)`."""

    hourly_cost: pulumi.Input[float | None] = None
    """US dollars an hour of everything that the cluster component pays for; None where no price is known."""

    node_shell: pulumi.Input[str]
    """The command that opens a shell on a node."""

    ready: Sequence[pulumi.Resource] = ()
    """What the release waits for and is destroyed before: node pools, storage classes, ingress controllers."""
