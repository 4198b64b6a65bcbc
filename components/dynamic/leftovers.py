"""Makes `pulumi destroy` wait for what Kubernetes made in the cloud by itself: disks and load balancers.

Pulumi does not know of them. When the cluster goes before them they stay, and are billed, and hold the network.
Kubernetes removes each in its own time after its claim or service was deleted. `Leftovers` does nothing at all until it
is deleted; then it waits until the cluster says that none is left. All that makes volumes or services must therefore
depend on it, and it depends on the nodes and drivers that do the removing.
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
"""Detaching and deleting a disk takes tens of seconds, a load balancer some minutes."""

UNREACHABLE_SECONDS = 120
"""How long a cluster that does not answer is asked again, before it is taken to be gone already."""

PAUSE_SECONDS = 5


class LeftoversError(Exception):
    """The cluster still holds disks or load balancers, so that going on would leave them behind, billed."""


class UnreachableError(Exception):
    """kubectl got no answer from the cluster."""


def left(listing: Mapping[str, Any]) -> list[str]:
    """What costs money in a `kubectl get persistentvolumes,services -A -o json`, in words, sorted.

    A volume counts when deleting its claim deletes its disk (reclaim policy Delete); a service, when its type is
    LoadBalancer.
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


def listing_of(kubeconfig: str, kubectl: Sequence[str] = ("kubectl",)) -> dict[str, Any]:
    """All volumes and services of the cluster that `kubeconfig` (text) describes. Raises UnreachableError."""
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
                timeout=60,
                check=False,
            )
        except FileNotFoundError:
            raise LeftoversError(
                "kubectl is not on PATH, so nobody can tell whether the cluster still holds disks or load balancers; "
                "install it (https://kubernetes.io/docs/tasks/tools/) and run pulumi destroy again"
            ) from None
        except subprocess.TimeoutExpired:
            raise UnreachableError("kubectl did not answer within 60 s") from None
    if done.returncode != 0:
        raise UnreachableError(" ".join(done.stderr.split()) or f"kubectl ended with status {done.returncode}")
    return dict(json.loads(done.stdout))


def wait_until_nothing_is_left(
    kubeconfig: str,
    *,
    kubectl: Sequence[str] = ("kubectl",),
    patience: float = PATIENCE_SECONDS,
    unreachable: float = UNREACHABLE_SECONDS,
    pause: float = PAUSE_SECONDS,
) -> None:
    """Returns when the cluster holds no disk and no load balancer of its own making.

    Times in seconds. Raises LeftoversError, naming each, when some are left after `patience`. A cluster that does not
    answer for `unreachable` was deleted by other means: that is told, and stops nothing, since no wait could help.
    """
    started = answered = time.monotonic()
    found: list[str] = []
    while True:
        try:
            found = left(listing_of(kubeconfig, kubectl))
        except UnreachableError as error:
            if time.monotonic() - answered > unreachable:
                pulumi.log.warn(
                    f"the cluster does not answer ({error}); it is taken to be gone. Look for its disks and load "
                    "balancers in the cloud's console."
                )
                return
        else:
            answered = time.monotonic()
            if not found:
                return
        if time.monotonic() - started > patience:
            raise LeftoversError(
                f"after {patience:.0f} s the cluster still holds: {'; '.join(found) or 'unknown (no answer)'}. "
                "Destroying it now would leave them behind, billed. See what keeps them with kubectl describe, delete "
                "what was not made by this stack, and run pulumi destroy again."
            )
        time.sleep(pause)


class LeftoversProvider(ResourceProvider):
    """Keeps the kubeconfig until it is needed, which is at the end."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Nothing but keeping `props`."""
        return CreateResult(id_="waits-at-destroy", outs=props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """A changed kubeconfig is kept; nothing ever replaces this, since a replacement would be a deletion."""
        return DiffResult(changes=olds.get("kubeconfig") != news.get("kubeconfig"), replaces=[])

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Nothing but keeping `news`."""
        return UpdateResult(outs=news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Waits. Raises LeftoversError when disks or load balancers stay."""
        wait_until_nothing_is_left(props["kubeconfig"], pause=PAUSE_SECONDS)


class Leftovers(Resource, name="Leftovers"):
    """The wait itself, as a resource; see the module. kubeconfig: text, a secret."""

    def __init__(self, name: str, kubeconfig: pulumi.Input[str], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(LeftoversProvider(), name, {"kubeconfig": pulumi.Output.secret(kubeconfig)}, opts)
