"""Makes `pulumi destroy` wait until Kubernetes has deleted its own disks and load balancers.

Do not move or rename this module or `DestroyGuardProvider`: Pulumi pickles the provider by module path into the state
of every stack, and a state whose pickle cannot be loaded cannot be destroyed. tests/unit/test_destroy_guard.py loads a
pickle from an earlier state. Nothing else in the project may become a dynamic resource without such a test.

Kubernetes creates disks for volume claims and load balancers for services, which Pulumi does not know. It deletes each
some time after its claim or service. If the cluster is deleted first, they remain: billed, and attached to the network.
The guard does nothing until it is deleted. Then it waits until the cluster reports none. Every resource that creates
volumes or services must therefore depend on the guard, and the guard on the nodes and drivers that delete them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

PATIENCE_SECONDS = 900
"""Limit of the whole wait. Detaching and deleting a disk takes tens of seconds, a load balancer some minutes."""

UNREACHABLE_SECONDS = 120
"""Time without any answer after which the destroy stops. An answer may be missed while the control plane restarts."""

PAUSE_SECONDS = 5
KUBECTL_SECONDS = 60


class RemainingResourcesError(Exception):
    """The cluster still has disks or load balancers, so deleting it now would leave them behind, billed."""


class UnreachableError(Exception):
    """The cluster did not answer kubectl, or refused it."""


FORGET = """pulumi state delete --target-dependents "$(pulumi stack --show-urns | grep -o 'urn:.*DestroyGuard::.*')\""""
"""Removes the guard and all that depends on it, which is all that was in the cluster, from the stack's state."""


def unanswered(error: UnreachableError) -> str:
    """The message for a cluster of which it is unknown whether it still exists."""
    return (
        f"the cluster does not answer: {error}\n"
        "    allowed: a cluster that answers kubectl, or one that its cloud no longer lists\n"
        "    fix:     log in again, add your address to authorizedNetworks (pulumi up), and run pulumi destroy again. "
        f"Only where the cloud no longer lists the cluster: {FORGET}, then pulumi destroy, and look for the disks and "
        "load balancers in the cloud's console"
    )


def billed(listing: Mapping[str, Any]) -> list[str]:
    """Disks and load balancers in a `kubectl get persistentvolumes,services -A -o json`, in words, sorted.

    Counts a volume whose disk is deleted with its claim (reclaim policy Delete), and a service of type LoadBalancer.
    """
    found = []
    for item in listing.get("items", []):
        metadata, spec = item.get("metadata", {}), item.get("spec", {})
        if item.get("kind") == "PersistentVolume" and spec.get("persistentVolumeReclaimPolicy") == "Delete":
            claim = spec.get("claimRef") or {}
            found.append(f"volume {metadata.get('name')} of claim {claim.get('namespace')}/{claim.get('name')}")
        if item.get("kind") == "Service" and spec.get("type") == "LoadBalancer":
            found.append(f"load balancer of service {metadata.get('namespace')}/{metadata.get('name')}")
    return sorted(found)


def list_volumes_and_services(kubeconfig: str, kubectl: Sequence[str] = ("kubectl",)) -> dict[str, Any]:
    """All volumes and services of the cluster. Raises UnreachableError, and RemainingResourcesError without kubectl."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="kubeconfig-") as file:  # mode 0600
        file.write(kubeconfig)
        file.flush()
        command = [*kubectl, "get", "persistentvolumes,services", "--all-namespaces", "--output", "json"]
        command.append("--request-timeout=20s")
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "KUBECONFIG": file.name},
                capture_output=True,
                text=True,
                timeout=KUBECTL_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise RemainingResourcesError(
                "kubectl is not on PATH\n"
                "    allowed: kubectl on PATH, to ask the cluster whether it still has disks or load balancers\n"
                "    fix:     install it (https://kubernetes.io/docs/tasks/tools/), then run pulumi destroy again"
            ) from None
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"kubectl did not answer within {KUBECTL_SECONDS} s") from None
    if done.returncode != 0:
        raise UnreachableError(" ".join(done.stderr.split()) or f"kubectl exited with status {done.returncode}")
    listing: dict[str, Any] = json.loads(done.stdout)
    return listing


def wait_until_nothing_is_billed(
    kubeconfig: str,
    *,
    kubectl: Sequence[str] = ("kubectl",),
    patience: float = PATIENCE_SECONDS,
    unreachable: float = UNREACHABLE_SECONDS,
    pause: float = PAUSE_SECONDS,
) -> None:
    """Waits until no disks and load balancers remain. Times are in seconds.

    Raises RemainingResourcesError, which names them, when some remain after `patience`. It is raised too when the
    cluster gives no answer for `unreachable`. An expired login, a changed address and a missing plugin all look
    like a deleted cluster, so only a person who asked the cloud may say that it is gone.
    """
    started = answered = time.monotonic()
    found: list[str] = []
    while True:
        try:
            found = billed(list_volumes_and_services(kubeconfig, kubectl))
        except UnreachableError as error:
            if time.monotonic() - answered > unreachable:
                raise RemainingResourcesError(unanswered(error)) from error
        else:
            answered = time.monotonic()
            if not found:
                return
        if time.monotonic() - started > patience:
            raise RemainingResourcesError(
                f"after {patience:.0f} s the cluster still has: {'; '.join(found) or 'unknown (no answer)'}\n"
                "    allowed: none: deleted now, the cluster would leave disks and load balancers behind, billed\n"
                "    fix:     see what keeps them with kubectl describe, delete what this stack did not create, then "
                "run pulumi destroy again"
            )
        time.sleep(pause)


class DestroyGuardProvider(ResourceProvider):
    """Keeps the kubeconfig in the state until the guard is deleted."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Only stores `props`."""
        return CreateResult(id_="waits-at-destroy", outs=props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """A changed kubeconfig is stored. Nothing replaces the guard: a replacement would delete it, and so wait."""
        return DiffResult(changes=olds.get("kubeconfig") != news.get("kubeconfig"), replaces=[])

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Only stores `news`."""
        return UpdateResult(outs=news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Waits. Raises RemainingResourcesError when disks or load balancers remain."""
        wait_until_nothing_is_billed(props["kubeconfig"], pause=PAUSE_SECONDS)


class DestroyGuard(Resource, name="DestroyGuard"):
    """The guard as a resource. kubeconfig: text, a secret."""

    def __init__(self, name: str, kubeconfig: pulumi.Input[str], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(DestroyGuardProvider(), name, {"kubeconfig": pulumi.Output.secret(kubeconfig)}, opts)
