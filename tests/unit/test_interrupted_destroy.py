"""A login that ends between two resources of `pulumi destroy`: what is left, and what the next destroy does with it.

The resources and their dependencies are those that the program registers. The engine here deletes as Pulumi's does: a
resource goes only when nothing depends on it any more, and the first refusal ends the run. A resource that was deleted
is out of the state at once, so the next run goes on with the others.

What a deletion needs in the cloud is stated here, and not taken from the dependencies.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from components.dynamic import destroy_guard
from components.dynamic.destroy_guard import DestroyGuardProvider, RemainingResourcesError, UnreachableError
from tests.unit.aws_cloud import eks
from tests.unit.both_clouds import MOST
from tests.unit.cloud_mocks import Recorded, Recording
from tests.unit.google_cloud import gke
from tests.unit.test_destroy_guard import Clock

pytestmark = pytest.mark.usefixtures("installed_tools")

ROLE = "arn:aws:iam::123456789012:role/"
CONFIG: dict[str, dict[str, Any]] = {
    "gke": {**MOST["gke"], "homeSnapshotDays": 7},
    "eks": {
        **MOST["eks"],
        "homeSnapshotDays": 7,
        "adminRoles": f"{ROLE}operators",
        "teamRoles": f"{ROLE}statistics",
    },
}
RUN = {"gke": gke, "eks": eks}

INSIDE = ("kubernetes:", "pulumi-python:dynamic:DestroyGuard")
"""Begins the type of what only the Kubernetes API can delete, or be asked about."""
NEEDS: Mapping[str, list[tuple[str | tuple[str, ...], str, str, str]]] = {
    # Type and part of the name of what is deleted; type and part of the name of what must still be there.
    "gke": [
        (INSIDE, "", "gcp:container/cluster:", ""),
        (INSIDE, "", "gcp:container/nodePool:", "-system"),
        (INSIDE, "", "gcp:compute/routerNat:", ""),
        (INSIDE, "-home", "gcp:compute/disk:", "-home"),
        ("gcp:container/nodePool:", "", "gcp:container/cluster:", ""),
        ("gcp:container/nodePool:", "", "gcp:projects/iAMMember:", "-nodes-role"),
        ("gcp:container/cluster:", "", "gcp:compute/subnetwork:", ""),
        ("gcp:compute/routerNat:", "", "gcp:compute/router:", ""),
        ("gcp:compute/subnetwork:", "", "gcp:compute/network:", ""),
        ("gcp:compute/router:", "", "gcp:compute/network:", ""),
        ("gcp:compute/firewall:", "", "gcp:compute/network:", ""),
    ],
    "eks": [
        (INSIDE, "", "aws:eks/cluster:", ""),
        (INSIDE, "", "aws:eks/accessEntry:", "-operators"),
        (INSIDE, "", "aws:eks/accessPolicyAssociation:", "-operators"),
        (INSIDE, "", "aws:eks/nodeGroup:", "-system"),
        (INSIDE, "", "aws:eks/addon:", "-csi-driver"),
        (INSIDE, "", "aws:iam/rolePolicyAttachment:", "-disks-"),
        (INSIDE, "", "aws:iam/rolePolicyAttachment:", "-files-"),
        (INSIDE, "", "aws:ec2/natGateway:", ""),
        (INSIDE, "", "aws:ec2/routeTableAssociation:", "-private-"),
        (INSIDE, "-home", "aws:ebs/volume:", "-home"),
        ("aws:eks/addon:", "", "aws:eks/cluster:", ""),
        ("aws:eks/nodeGroup:", "", "aws:eks/cluster:", ""),
        ("aws:eks/nodeGroup:", "", "aws:eks/addon:", "-vpc-cni"),
        ("aws:eks/nodeGroup:", "", "aws:iam/rolePolicyAttachment:", "-nodes-join"),
        ("aws:eks/cluster:", "", "aws:iam/rolePolicyAttachment:", "-control-plane-"),
        ("aws:eks/cluster:", "", "aws:cloudwatch/logGroup:", ""),
        ("aws:eks/cluster:", "", "aws:ec2/subnet:", "-private-"),
        ("aws:efs/mountTarget:", "", "aws:ec2/subnet:", "-private-"),
        ("aws:ec2/natGateway:", "-us-west-2a", "aws:ec2/subnet:", "-public-us-west-2a"),
        ("aws:ec2/natGateway:", "", "aws:ec2/internetGateway:", ""),
        ("aws:ec2/subnet:", "", "aws:ec2/vpc:", ""),
        ("aws:ec2/internetGateway:", "", "aws:ec2/vpc:", ""),
        ("aws:ec2/securityGroup:", "", "aws:ec2/vpc:", ""),
    ],
}
WITHOUT_LOGIN = ("future-kubernetes:", "pulumi:providers:", "random:")
"""Begins the type of what is deleted from the state only."""


class RefusedError(Exception):
    """A provider's refusal."""


class Stack:
    """A stack that is up: its state, and a login that ends after so many deletions."""

    def __init__(self, cloud: str) -> None:
        self.recording = recorded(cloud)
        self.by_urn = {entry.urn: entry for entry in self.recording.resources}
        self.below = {urn: self._direct(entry) for urn, entry in self.by_urn.items()}
        self.needs = {urn: self._needed(cloud, entry) for urn, entry in self.by_urn.items()}
        self.state = set(self.by_urn)
        self.deletions_left = 0
        self.ends_at = ""
        """Type at whose deletion the login ends, whatever is left of it."""

    def _direct(self, entry: Recorded) -> set[str]:
        """URNs that the engine deletes after `entry`: its dependencies, provider and parent."""
        named = {*entry.depends_on, entry.provider.rsplit("::", 1)[0], entry.parent}
        return named & set(self.by_urn)

    def _needed(self, cloud: str, entry: Recorded) -> set[str]:
        """URNs that must still be there, so that `entry` can be deleted."""
        return {
            other.urn
            for type_, part, needed_type, needed_part in NEEDS[cloud]
            if entry.type.startswith(type_) and part in entry.name
            for other in self.recording.resources
            if other.type.startswith(needed_type) and needed_part in other.name
        }

    @property
    def billed_apart(self) -> list[str]:
        """Types of what the state still has, and needs a provider to be deleted."""
        return sorted(self.by_urn[urn].type for urn in self.state if not self.local(urn))

    def local(self, urn: str) -> bool:
        """True for what is deleted without a login."""
        return self.by_urn[urn].type.startswith(WITHOUT_LOGIN)

    def answers(self, *_anything: Any) -> dict[str, Any]:
        """The cluster's answer to kubectl. Without a login, the plugin that makes credentials fails."""
        if self.deletions_left <= 0:
            raise UnreachableError("getting credentials: exec: executable failed with exit code 255")
        return {"items": []}

    def delete(self, urn: str) -> None:
        """One deletion in the cloud. Raises RefusedError, or what the guard raises."""
        entry = self.by_urn[urn]
        if self.local(urn):
            return
        missing = sorted(self.by_urn[need].name for need in self.needs[urn] - self.state)
        assert not missing, f"{entry.name} ({entry.type}) cannot be deleted without {missing}"
        if self.ends_at and entry.type.endswith(self.ends_at):
            self.deletions_left = 0
        if entry.type.endswith("DestroyGuard"):
            DestroyGuardProvider().delete("waits-at-destroy", entry.inputs)
        elif self.deletions_left <= 0:
            raise RefusedError(f"ExpiredToken: {entry.name}")
        self.deletions_left -= 1

    def destroy(self, login: int, order: random.Random) -> str:
        """`pulumi destroy` with a login for so many deletions. Returns what was refused, or an empty text."""
        self.deletions_left = login
        holders = Counter(need for urn in self.state for need in self.below[urn])
        ready = sorted(urn for urn in self.state if not holders[urn])
        while ready:
            urn = ready.pop(order.randrange(len(ready)))
            try:
                self.delete(urn)
            except (RefusedError, RemainingResourcesError) as refusal:
                assert urn in self.state
                return str(refusal)
            self.state.remove(urn)
            for need in sorted(self.below[urn]):
                holders[need] -= 1
                if not holders[need]:
                    ready.append(need)
        return ""


@functools.cache
def recorded(cloud: str) -> Recording:
    """The stack with most settings."""
    return RUN[cloud](CONFIG[cloud])


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Stack]:
    """A stack whose guard asks it, on a clock that goes on only where the guard sleeps."""

    def make(cloud: str) -> Stack:
        stack = Stack(cloud)
        monkeypatch.setattr(destroy_guard, "time", Clock())
        monkeypatch.setattr(destroy_guard, "list_volumes_and_services", stack.answers)
        return stack

    return make


ENOUGH = 10_000


@pytest.mark.parametrize("cloud", RUN)
def test_next_destroy_deletes_the_rest_wherever_a_login_ended(cloud: str, up: Callable[[str], Stack]) -> None:
    order = random.Random(20)
    everything = len(up(cloud).billed_apart)
    assert everything >= {"gke": 30, "eks": 70}[cloud]
    for login in range(everything):
        stack = up(cloud)
        refusal = stack.destroy(login, order)
        assert "ExpiredToken" in refusal or "log in again" in refusal
        assert len(stack.billed_apart) == everything - login, "what was refused is out of the state, or more than it"
        assert stack.destroy(ENOUGH, order) == ""
        assert not stack.state


@pytest.mark.parametrize("cloud", RUN)
def test_login_that_ends_at_the_wait_leaves_cluster_and_disks(cloud: str, up: Callable[[str], Stack]) -> None:
    """The wait must not take a refusal for a cluster that is gone, in this destroy or in the next one."""
    order = random.Random(16)
    for _ in range(20):
        stack = up(cloud)
        stack.ends_at = "DestroyGuard"
        for _attempt in range(2):
            assert "log in again" in stack.destroy(ENOUGH, order)
        kept = " ".join(stack.billed_apart)
        assert "kubernetes:" not in kept
        for needed in ("cluster:Cluster", "DestroyGuard", {"gke": "nodePool", "eks": "nodeGroup"}[cloud]):
            assert needed in kept
        stack.ends_at = ""
        assert stack.destroy(ENOUGH, order) == ""
        assert not stack.state


@pytest.mark.parametrize("cloud", RUN)
def test_state_of_a_stack_holds_no_login_that_could_end(cloud: str) -> None:
    """A destroy reads the state and not the settings, so the next one must find its login elsewhere.

    The registry's password is in the state too. The image's provider deletes without it: its client ignores what the
    registry answers (pulumi-docker-build, provider/internal/client.go: Delete).
    """
    done = recorded(cloud)
    kubeconfigs = [entry.inputs["kubeconfig"] for entry in done.resources if "kubeconfig" in entry.inputs]
    assert len(kubeconfigs) >= 2
    for text in kubeconfigs:
        for user in json.loads(text)["users"]:
            assert set(user["user"]) == {"exec"}, "a token in the state would have ended"
    held = {key for entry in done.resources if entry.type.startswith("pulumi:providers:") for key in entry.inputs}
    logins = ("token", "key", "secret", "credential", "password")
    assert "region" in held
    assert not [key for key in held if any(word in key.lower() for word in logins) and not key.startswith("skip")]
