"""Installs a release of the chart for the benchmarks, with stack dev's image, in a namespace of its own."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.paths import REPO
from common.patience import patience
from local import cluster


def image_of_stack_dev(node: cluster.Node) -> str:
    """Return the image that stack dev runs. Raises UserError if stack dev does not run."""
    found = node.kubectl("get", "deployments", "-A", "-l", "app.kubernetes.io/component=scheduler", "-o", "json")
    deployments = json.loads(found.stdout)["items"]
    if not deployments:
        raise UserError("stack dev has no scheduler whose image could be taken. Fix: make up")
    return str(deployments[0]["spec"]["template"]["spec"]["containers"][0]["image"])


def install(
    node: cluster.Node, namespace: str, name: str, token: str, values: dict[str, Any], chart: Path = REPO / "chart"
) -> None:
    """Creates the namespace, which must not exist, and installs the release there; returns when it is ready."""
    node.kubectl("create", "namespace", namespace)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bench", "namespace": namespace},
        "stringData": {"password": secrets.token_urlsafe(24), "token": token},
    }
    node.kubectl("apply", "-f", "-", input=json.dumps(secret))
    given = {"ide": "jupyterlab", "fullnameOverride": name, "auth": {"existingSecret": "bench"}, **values}
    subprocess.run(
        [str(node.programs / "helm"), "--kubeconfig", str(node.kubeconfig), "-n", namespace, "install", name,
         str(chart), "--wait", "--timeout", "5m", "-f", "-"],
        input=json.dumps(given), text=True, check=True, capture_output=True,
    )  # fmt: skip
    # Helm waits for the scheduler only.
    limit = patience(300)
    command = ("rollout", "status", f"deploy/{name}-worker", f"--timeout={limit:.0f}s")
    node.kubectl("-n", namespace, *command, timeout=limit + 20)
