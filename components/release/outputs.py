"""The stack's outputs. Each command among them can be pasted as it stands."""

from __future__ import annotations

from typing import Any

import pulumi

from components.clouds.base import Cluster
from components.release.release import Release
from components.release.values import ide_path
from components.settings.model import Settings

IDE_PORT = 8787
USERNAME = "rstudio"
"""The image's user, as in rocker/rstudio."""

HOME = "/home/rstudio"


def stack_outputs(settings: Settings, cluster: Cluster, image: pulumi.Input[str], release: Release) -> dict[str, Any]:
    """The stack's outputs by name; `password` and `kubeconfig` are secrets."""
    kubectl = pulumi.Output.concat(cluster.kubectl, f" --namespace {release.namespace}")
    pod = pulumi.Output.concat(
        '"$(',
        kubectl,
        f" get pods --selector app.kubernetes.io/instance={release.name},component=scheduler"
        " --output jsonpath='{.items[0].metadata.name}')\"",
    )
    scheduler = f"{release.name}-scheduler"
    outputs: dict[str, Any] = {
        "url": (f"https://{settings.host}" if settings.host else f"http://localhost:{IDE_PORT}") + ide_path(settings),
        "portForward": pulumi.Output.concat(kubectl, f" port-forward service/{scheduler} {IDE_PORT}:{IDE_PORT}"),
        "username": USERNAME,
        "password": release.password,
        "kubeconfig": cluster.kubeconfig,
        "kubeconfigCommand": cluster.kubeconfig_command,
        "namespace": release.namespace,
        "image": image,
        "workers": settings.workers,
        "maxWorkers": settings.max_workers,
        "nodes": cluster.nodes,
        "nodeShell": cluster.node_shell,
        "hourlyCost": cluster.hourly_cost,
        "home": cluster.home_words,
        "copyTo": pulumi.Output.concat(kubectl, " cp MY_FILE ", pod, f":{HOME}/"),
        "copyFrom": pulumi.Output.concat(kubectl, " cp ", pod, f":{HOME}/MY_FILE MY_FILE"),
        "shell": pulumi.Output.concat(kubectl, f" exec --stdin --tty deployment/{scheduler} -- bash"),
    }
    if settings.host:
        outputs["hostAddress"] = pulumi.Output.from_input(cluster.public_address).apply(
            lambda known: known or "unknown"
        )
    return outputs
