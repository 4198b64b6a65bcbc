"""The Helm release of the local chart, with the namespace and the Secret that it needs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi_kubernetes.helm import v3 as helm

from components.clouds.base import Cluster, Placement, PodSize, PublicAccess
from components.dynamic.kept_secret import KeptSecret
from components.release.objects import KubernetesObject
from components.settings.model import Settings

CHART_DIR = "chart"
"""Relative to the project: an absolute path in an input would be a change on every other machine."""

PROJECT_DIR = Path(__file__).resolve().parents[2]

PASSWORD_LENGTH = 16
TOKEN_LENGTH = 48

READY_SECONDS = 900
"""A node that must first be bought takes up to five minutes, and pulling the image to it several more."""


@dataclass(frozen=True)
class ReleaseArgs:
    """What the component needs. name: of the release and the start of its objects' names."""

    name: str
    namespace: str
    create_namespace: bool
    image: pulumi.Input[str]
    ide: str
    workers: int
    max_workers: int
    worker: PodSize
    scheduler: PodSize
    worker_placement: Placement = field(default_factory=Placement)
    scheduler_placement: Placement = field(default_factory=Placement)
    home_gib: int = 0
    home_storage_class: pulumi.Input[str] | None = None
    shared_gib: int = 0
    shared_storage_class: pulumi.Input[str] | None = None
    host: str | None = None
    public_access: PublicAccess = field(default_factory=PublicAccess)
    idle_minutes: int = 0
    ttl_hours: int = 0
    resource_quota: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    password: pulumi.Output[str] | None = field(default=None, repr=False)
    after: Sequence[pulumi.Resource] = ()
    """What must be there first, and on `destroy` goes last."""

    @classmethod
    def from_settings(cls, settings: Settings, cluster: Cluster, image: pulumi.Input[str]) -> ReleaseArgs:
        """The arguments that a stack's settings, its cluster and its image stand for."""
        return cls(
            name=settings.name,
            namespace=settings.namespace,
            create_namespace=settings.makes_namespace,
            image=image,
            ide=settings.ide,
            workers=settings.workers,
            max_workers=settings.max_workers,
            worker=cluster.worker_size,
            scheduler=cluster.scheduler_size,
            worker_placement=cluster.worker_placement,
            scheduler_placement=cluster.scheduler_placement,
            home_gib=settings.home_gib,
            home_storage_class=cluster.home_storage_class,
            shared_gib=settings.shared_gib,
            shared_storage_class=cluster.shared_storage_class,
            host=settings.host,
            public_access=cluster.public_access,
            idle_minutes=settings.idle_minutes,
            ttl_hours=settings.ttl_hours,
            resource_quota=settings.resource_quota,
            labels=settings.labels,
            password=pulumi.Output.secret(settings.password.get_secret_value()) if settings.password else None,
            after=cluster.ready,
        )


class Release(pulumi.ComponentResource):
    """Namespace, Secret and Helm release. `password` is a secret output; `namespace` and `name` are plain."""

    name: str
    namespace: str
    password: pulumi.Output[str]

    def __init__(self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:Release", name, None, opts)
        # Named here since the SDK does not hand a component's `depends_on` down to its children.
        child = pulumi.ResourceOptions(parent=self, depends_on=[*args.after])
        self.name = args.name
        self.namespace = args.namespace
        before: list[pulumi.Resource] = [*args.after]
        if args.create_namespace:
            # In a namespace of the stack's own no pod may be privileged.
            labels = {**args.labels, "pod-security.kubernetes.io/enforce": "baseline"}
            metadata: dict[str, Any] = {"name": args.namespace, "labels": labels}
            before.append(KubernetesObject("v1", "Namespace", name, {"metadata": metadata}, child))

        self.password = args.password or KeptSecret(f"{name}-password", PASSWORD_LENGTH, child).secret
        token = KeptSecret(f"{name}-token", TOKEN_LENGTH, child).secret
        secret_name = f"{args.name}-auth"
        metadata = {"name": secret_name, "namespace": args.namespace}
        if args.labels:  # empty ones would be a change on every run, since the cluster does not keep them
            metadata["labels"] = dict(args.labels)
        secret = KubernetesObject(
            "v1",
            "Secret",
            name,
            {"metadata": metadata, "stringData": {"password": self.password, "token": token}},
            pulumi.ResourceOptions(parent=self, depends_on=before),
            secret=("data", "stringData"),
        )
        helm.Release(
            name,
            name=args.name,
            namespace=args.namespace,
            chart=f"./{CHART_DIR}",
            # The provider compares the chart's version alone, so that an edited template would never be deployed.
            description=f"chart {chart_hash(PROJECT_DIR / CHART_DIR)}",
            values=chart_values(args, secret_name),
            # A failed install is taken away and a failed upgrade taken back, so that the next run starts from rest.
            atomic=True,
            timeout=READY_SECONDS,
            max_history=5,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*args.after, secret]),
        )
        self.register_outputs({"namespace": self.namespace, "password": self.password})


def chart_values(args: ReleaseArgs, secret_name: str) -> dict[str, Any]:
    """The chart's values. No secret is among them: Helm keeps values in the cluster and shows them to whoever asks."""
    return {
        "fullnameOverride": args.name,
        "image": args.image,
        "ide": args.ide,
        "auth": {"existingSecret": secret_name},
        "scheduler": {
            "resources": resources(args.scheduler),
            **placement(args.scheduler_placement),
            "homeGiB": args.home_gib,
            "homeStorageClass": args.home_storage_class or "",
        },
        "worker": {
            "replicas": args.workers,
            "maxReplicas": args.max_workers,
            "resources": resources(args.worker),
            **placement(args.worker_placement),
        },
        "shared": {"GiB": args.shared_gib, "storageClass": args.shared_storage_class or ""},
        "host": args.host or "",
        "ingress": {
            "className": args.public_access.ingress_class,
            "annotations": dict(args.public_access.annotations),
        },
        "idleMinutes": args.idle_minutes,
        "ttlHours": args.ttl_hours,
        "resourceQuota": {"hard": quota(args)},
        "labels": dict(args.labels),
    }


def resources(size: PodSize) -> dict[str, dict[str, str]]:
    """Requests and limits of a pod. CPU has no limit: what nobody asks for may be used."""
    return {
        "requests": {"cpu": f"{size.cpu_millicores}m", "memory": f"{size.memory_mib}Mi"},
        "limits": {"memory": f"{size.memory_limit_mib or size.memory_mib}Mi"},
    }


def placement(where: Placement) -> dict[str, Any]:
    """The chart's node selector, tolerations and affinity."""
    return {
        "nodeSelector": dict(where.node_selector),
        "tolerations": [dict(toleration) for toleration in where.tolerations],
        "affinity": dict(where.affinity),
    }


SPARE_PODS = 3
"""Beside the workers and the scheduler: the chart's test pod, and a scheduler that is still ending."""

ENDING_SHARE = 0.25
"""Workers that may be ending when their successors start, as the chart's maxUnavailable; each counts until gone."""


def quota(args: ReleaseArgs) -> dict[str, str]:
    """Limits of a namespace of the stack's own: all workers and room to replace them; no load balancer unasked for."""
    if not (args.resource_quota and args.create_namespace):
        return {}
    workers = args.max_workers + math.ceil(args.max_workers * ENDING_SHARE)
    cpu = workers * args.worker.cpu_millicores + (1 + SPARE_PODS) * args.scheduler.cpu_millicores
    memory = workers * args.worker.memory_mib + (1 + SPARE_PODS) * args.scheduler.memory_mib
    return {
        "pods": str(workers + 1 + SPARE_PODS),
        "requests.cpu": f"{cpu}m",
        "requests.memory": f"{memory}Mi",
        "services.loadbalancers": "0",
        "services.nodeports": "0",
    }


def chart_hash(folder: Path) -> str:
    """A hash over names and contents of the chart's files, the same on every machine."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
