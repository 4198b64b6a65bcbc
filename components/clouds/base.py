"""The interface between a cluster component and the rest of the program, the same on every cloud.

Each cloud's component is a subclass of `Cluster`. The release, the image and the outputs read only these attributes, so
that no step after the cluster depends on the cloud.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.settings.model import Settings

WORKER_NODE_LABEL = "future-kubernetes/role"
"""Label on the nodes of a worker pool, with the value `worker`; a system pool has the value `system`."""

WORKER_TAINT = {"key": "future-kubernetes/worker", "value": "true", "effect": "NoSchedule"}
"""Taint of a worker pool. It keeps other pods away, which would take the room that a worker was sized for."""


@dataclass(frozen=True)
class Placement:
    """The nodes that pods of one kind may run on.

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
"""Placement of workers on an existing cluster: every node except the system nodes that another stack created.

The toleration lets workers use that stack's worker pool. An autoscaler takes it into account even while the pool has no
node. `NotIn` also holds for nodes without the label, so on any other cluster workers may use all nodes.
The placement is not derived from the nodes: a user may lack the permission to list them, and an idle pool has none.
"""


@dataclass(frozen=True)
class PodSize:
    """Requests of one pod: `cpu_millicores` in thousandths of a core, `memory_mib` in MiB.

    memory_limit_mib: the memory limit; None means the request, so that a node is never overbooked. disk_gib: request
    for temporary files, log and home on the node's disk; None for none. cpu_limit_millicores: None for no limit.
    """

    cpu_millicores: int
    memory_mib: int
    memory_limit_mib: int | None = None
    disk_gib: int | None = None
    cpu_limit_millicores: int | None = None


def scheduler_size(settings: Settings) -> PodSize:
    """Requests of the scheduler, as the settings have them."""
    return PodSize(round(settings.scheduler_cpu * 1000), round(settings.scheduler_memory_gib * 1024))


def shared_claim(settings: Settings) -> str:
    """Name of the claim of /shared where it is not part of the Helm release."""
    return f"{settings.name}-shared"


def home_claim(settings: Settings) -> str:
    """Name of the claim of the home, whether it is part of the Helm release or not."""
    return f"{settings.name}-home"


@dataclass(frozen=True)
class ImageRegistry:
    """A registry that the program may push the image to.

    repository: full name without a tag, such as `us-west1-docker.pkg.dev/p/r/future-kubernetes`.
    server, username, password: for `docker login`. The password is short-lived; its users mark it as a secret.
    oci_cache: whether the registry needs cache manifests as OCI images (ECR does), see
    https://docs.docker.com/build/cache/backends/registry/. platform: of the nodes.
    """

    repository: pulumi.Input[str]
    server: pulumi.Input[str]
    username: pulumi.Input[str]
    password: pulumi.Input[str]
    oci_cache: bool = False
    platform: str = "linux/amd64"


@dataclass(frozen=True)
class PublicAccess:
    """Fields of the IDE's Ingress that depend on the cluster, for when `host` is set.

    ingress_class: name of the ingress class. annotations: of the Ingress, such as those for its certificate.
    """

    ingress_class: str = ""
    annotations: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class CloudIdentity:
    """Credentials of the cloud for pods, without a key.

    server: address and port on each node that hands them out. annotations: of the pods.
    """

    server: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def service_accounts(settings: Settings) -> dict[str, str]:
    """The chart's service accounts, by the part that runs as each."""
    return {part: f"{settings.name}-{part}" for part in ("scheduler", "worker")}


UNKNOWN = "unknown"
"""Stands for a price that no price list states. None is guessed."""


def flat(text: str) -> dict[str, Any]:
    """The output `hourlyCost` of a cluster that the stack does not create: the same text for each figure."""
    return {"now": text, "idle": text, "max": text, "workerNode": text, "parts": {}, "notIncluded": ""}


class Cluster(pulumi.ComponentResource):
    """Base of every cluster component. A subclass sets each attribute before it calls `register_outputs`."""

    provider: kubernetes.Provider
    """Kubernetes provider of the cluster. With `cluster_identifier` set, a changed kubeconfig replaces no resource."""

    kubeconfig: pulumi.Output[str]
    """The text of a kubeconfig for this cluster; a secret."""

    kubeconfig_command: pulumi.Input[str]
    """Command that gets a person credentials, such as `gcloud container clusters get-credentials ...`."""

    kubectl: pulumi.Input[str] = "kubectl"
    """Command that calls kubectl for this cluster, after `kubeconfig_command`."""

    registry: ImageRegistry | None = None
    """Registry to push the image to; None where the cluster has none, so that `image` must be set."""

    worker_placement: Placement = Placement()
    scheduler_placement: Placement = Placement()

    worker_size: PodSize
    """Requests of one worker."""

    warm_workers: int = 0
    """Workers for which placeholders keep room."""

    worker_grace_seconds: int | None = None
    """Seconds between a worker's request to stop and its kill; None for the chart's own."""

    scheduler_size: PodSize
    """Requests of the scheduler."""

    home_storage_class: pulumi.Input[str] | None = None
    """Storage class of the scheduler's home volume; None for the cluster's default."""

    home_volume: pulumi.Input[str] | None = None
    """Name of the volume for /home/rstudio where the cluster component makes it; None where the storage class does."""

    home_words: str
    """The end of the home at `pulumi destroy`."""

    shared_storage_class: pulumi.Input[str] | None = None
    """ReadWriteMany storage class for /shared; None for the cluster's default."""

    shared_volume: pulumi.Input[str] | None = None
    """Name of the volume for /shared where the cluster component makes it; None where the storage class does."""

    public_access: PublicAccess = PublicAccess()

    cloud_identity: CloudIdentity | None = None
    """Set where scheduler and workers may use something of the cloud."""

    public_address: pulumi.Input[str | None] = None
    """The load balancer's addresses with blanks between, to which the DNS records of `host` must point."""

    nodes: pulumi.Input[str]
    """Description of the nodes, such as `10 x e2-standard-4 (autoscaled 0 to 10)`."""

    hourly_cost: pulumi.Input[Mapping[str, Any]] = flat(UNKNOWN)
    """US dollars an hour of everything that the cluster component creates, as `Costs.output` returns them."""

    node_shell: pulumi.Input[str]
    """Command that opens a shell on a node."""

    reports_wait = True
    """True if the program reports why the release waits; False where another program does."""

    own_values: Mapping[str, Any] = {}
    """Values of the chart that only this kind of cluster has settings for."""

    ready: Sequence[pulumi.Resource] = ()
    """Resources that the release depends on, so it is destroyed before them: node pools, storage classes, ingress."""
