"""The wait at destroy, against a kubectl that answers from a file: what counts, how long, and what without answers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.dynamic.leftovers import (
    LeftoversError,
    LeftoversProvider,
    UnreachableError,
    left,
    listing_of,
    wait_until_nothing_is_left,
)

ROOT = Path(__file__).resolve().parents[2]


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
def kubectl(tmp_path: Path) -> Any:
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


def test_disks_that_go_with_their_claim_and_load_balancers_count_and_nothing_else() -> None:
    listing = {"items": [volume(), volume("kept", "Retain"), service(), service("ClusterIP"), service("NodePort")]}
    assert left(listing) == [
        "load balancer of service future-ingress/traefik",
        "volume pvc-1 of claim future-team/home",
    ]
    assert left({"items": []}) == []


def test_the_wait_ends_when_the_last_one_is_gone(kubectl: Any, tmp_path: Path) -> None:
    command = kubectl([volume(), service()], [volume()], [])
    wait_until_nothing_is_left("the kubeconfig", kubectl=command, pause=0.01)
    assert (tmp_path / "count").read_text() == "3"
    assert (tmp_path / "seen").read_text().startswith("the kubeconfig get persistentvolumes,services --all-namespaces")
    assert (tmp_path / "mode").read_text() == "0o600"


@pytest.mark.timeout(60)  # a destroy that waits for ever would never fail
def test_what_stays_stops_the_destroy_and_is_named(kubectl: Any) -> None:
    with pytest.raises(LeftoversError, match="volume pvc-1 of claim future-team/home") as caught:
        wait_until_nothing_is_left("k", kubectl=kubectl([volume()]), patience=0.2, pause=0.01)
    assert "pulumi destroy again" in str(caught.value)


def test_a_cluster_that_is_gone_already_stops_nothing_but_one_that_hiccups_is_asked_again(
    kubectl: Any, tmp_path: Path
) -> None:
    wait_until_nothing_is_left("k", kubectl=kubectl("connection refused"), unreachable=0.2, pause=0.01)
    (tmp_path / "count").unlink()
    wait_until_nothing_is_left("k", kubectl=kubectl([volume()], "timeout", [volume()], []), unreachable=5, pause=0.01)
    assert (tmp_path / "count").read_text() == "4"


def test_a_refusal_says_what_kubectl_said(kubectl: Any) -> None:
    with pytest.raises(UnreachableError, match="connection refused"):
        listing_of("k", kubectl("connection refused"))


def test_without_kubectl_the_destroy_stops_rather_than_guess() -> None:
    with pytest.raises(LeftoversError, match="kubectl is not on PATH"):
        listing_of("k", ["/nonexistent/kubectl"])


def test_a_changed_kubeconfig_is_kept_and_never_replaces_since_that_would_be_a_deletion() -> None:
    provider = LeftoversProvider()
    assert provider.diff("id", {"kubeconfig": "a"}, {"kubeconfig": "a", "__provider": "newer"}).changes is False
    changed = provider.diff("id", {"kubeconfig": "a"}, {"kubeconfig": "b"})
    assert changed.changes is True
    assert not changed.replaces
    assert provider.update("id", {"kubeconfig": "a"}, {"kubeconfig": "b"}).outs == {"kubeconfig": "b"}


def test_the_wait_runs_in_a_process_of_its_own_from_what_the_state_holds(kubectl: Any, tmp_path: Path) -> None:
    from pulumi.dynamic.dynamic import serialize_provider

    command = kubectl([volume()], [])
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    (folder / "kubectl").chmod(0o755)
    held = serialize_provider(LeftoversProvider())
    script = (
        "import base64, dill, sys, components.dynamic.leftovers as module\n"
        "module.PAUSE_SECONDS = 0.01\n"
        "provider = dill.loads(base64.b64decode(sys.argv[1]))\n"
        "provider.delete('waits-at-destroy', {'kubeconfig': 'k'})\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, held],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        check=True,
        timeout=60,
    )
    assert (tmp_path / "count").read_text() == "2"
    assert base64.b64decode(held)
