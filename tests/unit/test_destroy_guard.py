"""The destroy guard: which resources it waits for, how long, and the provider stored by an earlier version."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as services

from components.dynamic import destroy_guard
from components.dynamic.destroy_guard import (
    DestroyGuardProvider,
    RemainingResourcesError,
    UnreachableError,
    billed,
    list_volumes_and_services,
    wait_until_nothing_is_billed,
)
from tests.unit.cloud_mocks import ROOT

STORED = Path(__file__).parent / "stored" / "destroy_guard_provider.base64"
"""The provider as the state of a stack holds it. Never write it anew: stacks that are up have these bytes."""

Answers = Callable[..., list[str]]


def volume(name: str = "pvc-1", policy: str = "Delete") -> dict[str, Any]:
    return {
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {"persistentVolumeReclaimPolicy": policy, "claimRef": {"namespace": "future-team", "name": "home"}},
    }


def service(type_: str = "LoadBalancer") -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": "traefik", "namespace": "future-ingress"},
        "spec": {"type": type_},
    }


@pytest.fixture
def kubectl(tmp_path: Path) -> Answers:
    """A kubectl that gives one answer after another, and the last one from then on. An answer of text is an error."""

    def make(*answers: list[dict[str, Any]] | str) -> list[str]:
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        script = tmp_path / "kubectl.py"
        script.write_text(
            "import json, os, pathlib, sys\n"
            f"folder = pathlib.Path({str(tmp_path)!r})\n"
            "answers = json.loads((folder / 'answers.json').read_text())\n"
            "count = folder / 'count'\n"
            "at = int(count.read_text()) if count.exists() else 0\n"
            "count.write_text(str(at + 1))\n"
            "given = pathlib.Path(os.environ['KUBECONFIG'])\n"
            "(folder / 'seen').write_text(given.read_text() + ' ' + ' '.join(sys.argv[1:]))\n"
            "(folder / 'mode').write_text(oct(given.stat().st_mode & 0o777))\n"
            "answer = answers[min(at, len(answers) - 1)]\n"
            "sys.exit(answer) if isinstance(answer, str) else print(json.dumps({'items': answer}))\n"
        )
        return [sys.executable, str(script)]

    return make


# Billed resources


def test_only_deletable_volumes_and_load_balancers_are_billed() -> None:
    listing = {"items": [volume(), volume("kept", "Retain"), service(), service("ClusterIP"), service("NodePort")]}
    assert billed(listing) == [
        "load balancer of service future-ingress/traefik",
        "volume pvc-1 of claim future-team/home",
    ]
    assert billed({"items": []}) == []


def test_volume_without_a_claim_is_named() -> None:
    released = volume()
    del released["spec"]["claimRef"]
    assert billed({"items": [released]}) == ["volume pvc-1 of claim None/None"]


def test_kubectl_lists_all_namespaces_with_a_private_kubeconfig(kubectl: Answers, tmp_path: Path) -> None:
    assert list_volumes_and_services("the kubeconfig", kubectl([volume()])) == {"items": [volume()]}
    asked = "get persistentvolumes,services --all-namespaces --output json --request-timeout=20s"
    assert (tmp_path / "seen").read_text() == f"the kubeconfig {asked}"
    assert (tmp_path / "mode").read_text() == "0o600"


def test_failure_of_kubectl_is_reported_in_its_words(kubectl: Answers) -> None:
    with pytest.raises(UnreachableError, match="connection refused"):
        list_volumes_and_services("k", kubectl("connection refused"))
    with pytest.raises(UnreachableError, match="exited with status 1"):
        list_volumes_and_services("k", kubectl(" "))


def test_hanging_kubectl_counts_as_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: Any) -> None:
        assert options["timeout"] == 60
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UnreachableError, match="within 60 s"):
        list_volumes_and_services("k")


def test_missing_kubectl_stops_the_destroy() -> None:
    with pytest.raises(RemainingResourcesError, match="kubectl is not on PATH"):
        list_volumes_and_services("k", ["/nonexistent/kubectl"])


# Duration of the wait


class Clock:
    """The module's `time`, which goes on only where the guard sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def waited(self) -> float:
        return self.now - 1000


GONE = UnreachableError("connection refused")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    """Makes the cluster answer so, one after another and the last for ever, on a clock of the guard's own."""

    def make(*answers: list[dict[str, Any]] | UnreachableError) -> Clock:
        todo, clock = list(answers), Clock()

        def listing(kubeconfig: str, _kubectl: object) -> dict[str, Any]:
            assert kubeconfig == "the kubeconfig"
            found = todo.pop(0) if len(todo) > 1 else todo[0]
            if isinstance(found, UnreachableError):
                raise found
            return {"items": found}

        monkeypatch.setattr(destroy_guard, "time", clock)
        monkeypatch.setattr(destroy_guard, "list_volumes_and_services", listing)
        return clock

    return make


def wait() -> None:
    wait_until_nothing_is_billed("the kubeconfig")


def test_wait_ends_when_nothing_is_billed(answer: Callable[..., Clock]) -> None:
    clock = answer([volume(), service()], [volume()], [])
    wait()
    assert clock.waited == 10


def test_resources_that_remain_stop_the_destroy_after_15_minutes(answer: Callable[..., Clock]) -> None:
    clock = answer([volume()])
    with pytest.raises(
        RemainingResourcesError, match=r"after 900 s .* volume pvc-1 of claim future-team/home"
    ) as caught:
        wait()
    assert "pulumi destroy again" in str(caught.value)
    assert 900 < clock.waited <= 905


REFUSALS = [
    "dial tcp 198.51.100.7:443: connect: connection refused",
    "dial tcp 198.51.100.7:443: i/o timeout",
    "dial tcp: lookup abc.gr7.us-west-2.eks.amazonaws.com: no such host",
    "error: You must be logged in to the server (Unauthorized)",
    'Error from server (Forbidden): services is forbidden: User "a" cannot list resource "services"',
    "getting credentials: exec: executable gke-gcloud-auth-plugin not found",
    "getting credentials: exec: executable aws failed with exit code 255: Error when retrieving token from sso",
]


@pytest.mark.parametrize("reason", REFUSALS)
def test_silence_or_refusal_for_two_minutes_stops_the_destroy(answer: Callable[..., Clock], reason: str) -> None:
    clock = answer(UnreachableError(reason))
    with pytest.raises(RemainingResourcesError) as caught:
        wait()
    assert 120 < clock.waited <= 125
    given, allowed, fix = str(caught.value).splitlines()
    assert given == f"the cluster does not answer: {reason}"
    assert allowed.startswith("    allowed: a cluster that answers kubectl")
    assert fix.startswith("    fix:     log in again")
    assert "authorizedNetworks" in fix
    command = "no longer lists the cluster: pulumi state delete --target-dependents "
    assert command in fix, "a cluster that is gone could never be left"


def test_cluster_that_answered_for_minutes_may_miss_once(answer: Callable[..., Clock]) -> None:
    clock = answer(*[[volume()]] * 60, GONE, [volume()], [])
    wait()
    assert clock.waited == 62 * 5, "its disks would stay, billed"


def test_cluster_that_stops_answering_gets_two_more_minutes(answer: Callable[..., Clock]) -> None:
    clock = answer(*[[volume()]] * 60, GONE)
    with pytest.raises(RemainingResourcesError, match="connection refused"):
        wait()
    assert 59 * 5 + 120 < clock.waited <= 59 * 5 + 125


def test_cluster_that_rarely_answers_is_waited_for_15_minutes(answer: Callable[..., Clock]) -> None:
    clock = answer(*[[volume()], *[GONE] * 20] * 10, GONE)
    with pytest.raises(RemainingResourcesError, match="volume pvc-1"):
        wait()
    assert 900 < clock.waited <= 905


# The state of a stack


@pytest.fixture
def stub() -> Iterator[Callable[[Path], services.ResourceProviderStub]]:
    """The SDK's own process for dynamic providers, started as the Pulumi engine starts it, with a folder of programs
    that its PATH begins with.
    """
    started: list[tuple[subprocess.Popen[str], grpc.Channel]] = []

    def start(programs: Path) -> services.ResourceProviderStub:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "pulumi.dynamic"],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        channel = grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}")
        started.append((process, channel))
        return services.ResourceProviderStub(channel)

    yield start
    for process, channel in started:
        channel.close()
        process.terminate()
        process.wait()


def test_stored_provider_of_an_earlier_version_still_deletes(
    stub: Callable[[Path], services.ResourceProviderStub], kubectl: Answers, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    command = " ".join(kubectl([]))
    (programs / "kubectl").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (programs / "kubectl").chmod(0o755)
    state = Struct()
    state.update({"kubeconfig": "the kubeconfig", "__provider": STORED.read_text().strip()})
    urn = "urn:pulumi:team::future-kubernetes::pulumi-python:dynamic:DestroyGuard::future-team-destroy-guard"
    request = messages.DeleteRequest(id="waits-at-destroy", urn=urn, properties=state)
    stub(programs).Delete(request, timeout=60)
    assert (tmp_path / "count").read_text() == "1"
    assert (tmp_path / "seen").read_text().startswith("the kubeconfig get persistentvolumes,services")


def test_provider_is_pickled_by_reference() -> None:
    held = serialize_provider(DestroyGuardProvider())
    assert held == serialize_provider(DestroyGuardProvider())
    assert b"components.dynamic.destroy_guard" in base64.b64decode(held)
    assert len(held) < 300, "the class itself was pickled, which depends on the version of Python"


def test_create_and_update_store_the_kubeconfig_and_delete_waits(answer: Callable[..., Clock]) -> None:
    provider, state = DestroyGuardProvider(), {"kubeconfig": "the kubeconfig"}
    assert provider.create(state).outs == state
    assert provider.update("id", {"kubeconfig": "a"}, state).outs == state
    clock = answer([volume()], [])
    provider.delete("id", state)
    assert clock.waited == 5


def test_changed_kubeconfig_updates_and_never_replaces() -> None:
    provider = DestroyGuardProvider()
    assert provider.diff("id", {"kubeconfig": "a"}, {"kubeconfig": "a", "__provider": "newer"}).changes is False
    changed = provider.diff("id", {"kubeconfig": "a"}, {"kubeconfig": "b"})
    assert changed.changes is True
    assert not changed.replaces
