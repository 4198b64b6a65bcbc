"""The chart's values for a stack. No secret is among them: Helm keeps values in the cluster, unencrypted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.clouds.base import Cluster, Placement, PodSize, home_claim, shared_claim
from components.release.quota import quota
from components.settings.keys import keys_of
from components.settings.model import Settings


def chart_values(
    settings: Settings,
    cluster: Cluster,
    image: pulumi.Input[str],
    secret_name: str,
    login_version: pulumi.Input[str] = "",
) -> dict[str, Any]:
    """The values of the settings and the cluster, with the user's `chartValues` laid over them.

    login_version: another text for another secret of the single sign-on.
    """
    values: dict[str, Any] = {
        "fullnameOverride": settings.name,
        "image": image,
        "auth": {"existingSecret": secret_name},
        "scheduler": {
            "resources": resources(cluster.scheduler_size),
            **placement(cluster.scheduler_placement),
            "homeStorageClass": cluster.home_storage_class or "",
            **({"homeExistingClaim": home_claim(settings)} if cluster.home_volume else {}),
            **pod_annotations(cluster),
        },
        "worker": {
            "warmReplicas": cluster.warm_workers,
            "resources": resources(cluster.worker_size),
            **placement(cluster.worker_placement),
            **pod_annotations(cluster),
            **({"gracePeriodSeconds": cluster.worker_grace_seconds} if cluster.worker_grace_seconds else {}),
        },
        "shared": {
            "storageClass": cluster.shared_storage_class or "",
            **({"existingClaim": shared_claim(settings)} if cluster.shared_volume else {}),
        },
        "ingress": {
            "className": cluster.public_access.ingress_class,
            "annotations": dict(cluster.public_access.annotations),
        },
        "oidc": oidc(settings, login_version),
        "hourlyCost": pulumi.Output.from_input(cluster.hourly_cost).apply(page_cost),
        "networkPolicy": {
            "identityServer": cluster.cloud_identity.server if cluster.cloud_identity else "",
            "extraEgress": [egress_rule(each) for each in settings.egress],
        },
        "resourceQuota": {"hard": quota(settings, cluster.worker_size, cluster.scheduler_size, cluster.warm_workers)},
    }
    for overlay in (passed_on(settings), cluster.own_values, settings.chart_values):
        values = merged(values, overlay)
    return values


def passed_on(settings: Settings) -> dict[str, Any]:
    """The values that a setting sets as it is, by `chart` in its declaration. An unset one is empty text."""
    values: dict[str, Any] = {}
    for key in keys_of(type(settings)).values():
        if key.chart:
            given = getattr(settings, key.field)
            part: Any = "" if given is None else given
            for name in reversed(key.chart.split(".")):
                part = {name: part}
            values = merged(values, part)
    return values


def ide_path(settings: Settings) -> str:
    """The path below which `chartValues` put the IDE, without its last slash."""
    found = settings.chart_values.get("ingress") or {}
    return str(found.get("path", "/")).rstrip("/")


def oidc(settings: Settings, version: pulumi.Input[str]) -> dict[str, Any]:
    """The chart's values of a single sign-on, beside those that settings set as they are."""
    if not settings.oidc_issuer:
        return {}
    return {"existingSecret": oidc_secret(settings), "users": list(settings.oidc_users), "secretVersion": version}


def oidc_secret(settings: Settings) -> str:
    """Name of the Secret with the keys of a single sign-on."""
    return f"{settings.name}-oidc"


def page_cost(cost: Mapping[str, Any]) -> dict[str, str]:
    """The part of the output `hourlyCost` from which the live page computes what the workers that are there cost.

    The figure for now is left out: it is that of `workers`, and a page shows the workers that there are.
    """
    return {name: str(cost[name]) for name in ("idle", "max", "workerNode")}


def merged(values: Any, overlay: Any) -> Any:
    """`overlay` laid over `values`: maps are merged, lists appended, anything else replaced."""
    if isinstance(values, Mapping) and isinstance(overlay, Mapping):
        both = {key: merged(values[key], overlay[key]) for key in values.keys() & overlay.keys()}
        return {**values, **overlay, **both}
    if isinstance(values, list) and isinstance(overlay, list):
        return [*values, *overlay]
    return overlay


def egress_rule(destination: str) -> dict[str, Any]:
    """The rule of a network policy for an item of `egress`."""
    network, _, port = destination.rpartition(":")
    cidr = network.removeprefix("[").removesuffix("]")
    return {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": int(port)}]}


def pod_annotations(cluster: Cluster) -> dict[str, Any]:
    """The pods' annotations by which they get credentials of the cloud; nothing where there are none."""
    found = cluster.cloud_identity.annotations if cluster.cloud_identity else {}
    return {"podAnnotations": dict(found)} if found else {}


def resources(size: PodSize) -> dict[str, dict[str, str]]:
    """Requests and limits of a pod. CPU by default has no limit: unrequested cores may be used."""
    cpu = {"cpu": f"{size.cpu_limit_millicores}m"} if size.cpu_limit_millicores else {}
    disk = {"ephemeral-storage": f"{size.disk_gib}Gi"} if size.disk_gib else {}
    return {
        "requests": {"cpu": f"{size.cpu_millicores}m", "memory": f"{size.memory_mib}Mi", **disk},
        "limits": {"memory": f"{size.memory_limit_mib or size.memory_mib}Mi", **cpu},
    }


def placement(where: Placement) -> dict[str, Any]:
    """The chart's node selector, tolerations and affinity."""
    return {
        "nodeSelector": dict(where.node_selector),
        "tolerations": [dict(toleration) for toleration in where.tolerations],
        "affinity": dict(where.affinity),
    }
