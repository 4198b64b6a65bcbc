"""The example stacks beside those of the clouds, and two stacks that share a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.clouds import MODELS
from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing.nodes import read_nodes
from components.settings.loading import known_keys
from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import ROOT, Recorded, Recording, Refused, listing, run, stack_config

KEYS = known_keys(MODELS)
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _campus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kubeconfig with the context `campus`, whose cluster has four nodes."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://kubernetes.example.org:6443"}}],
        "users": [{"name": "u", "user": {"token": "a-token"}}],
        "contexts": [{"name": "campus", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(existing, "read_nodes", lambda *_args: [Allocatable(16000, 65536)] * 4)
    monkeypatch.setattr(existing, "check_pull_secrets", lambda *_args: None)
    monkeypatch.setattr(existing, "check_home", lambda *_args: None)
    monkeypatch.setattr(existing, "check_namespace", lambda *_args: None)


def computed(_type: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"name": inputs.get("name", name)}


def registry_image(args: Any) -> dict[str, Any]:
    return {"id": args["name"], "name": args["name"], "sha256Digest": "sha256:" + "c" * 64}


ANYWHERE = {"nodeSelector": "", "tolerations": ""}
"""The campus stack on all nodes of a cluster."""
OWN = {"namespace": "", "createNamespace": True, "imagePullSecrets": ""}
"""The campus stack in a namespace that it creates."""


def campus(config: dict[str, Any] | None = None, name: str = "campus") -> Recording:
    answers = {"docker:index/getRegistryImage:getRegistryImage": registry_image}
    return run({**stack_config("campus"), **(config or {})}, answers, computed, stack_name=name)


def test_campus_stack_registers_its_golden_list_without_a_warning() -> None:
    golden = GOLDEN / "campus.txt"
    done = campus()
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(listing(done))
    assert listing(done) == golden.read_text(), (
        "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_examples.py"
    )
    assert done.warnings == []


def test_a_tag_is_pinned_to_its_digest() -> None:
    values = campus().one("helm.sh/v3:Release").inputs["values"]
    assert values["image"].endswith("@sha256:" + "c" * 64)


def test_two_stacks_on_one_cluster_share_no_object() -> None:

    def named(resource: Recorded) -> tuple[str, str]:
        metadata = resource.inputs.get("metadata", resource.inputs)
        return resource.type, f"{metadata.get('namespace')}/{metadata['name']}"

    objects = [
        {named(resource) for resource in campus(OWN, name).resources if resource.type.startswith("kubernetes:")}
        for name in ("statistics", "biology")
    ]
    assert len(objects[0]) >= 3
    assert not objects[0] & objects[1]


def admits(node: dict[str, Any], pod: dict[str, Any]) -> bool:
    """True if a node's labels and taints admit a pod; shares no code with the program."""
    labels, taints = node["metadata"].get("labels", {}), node["spec"].get("taints", [])
    if any(labels.get(key) != value for key, value in pod["nodeSelector"].items()):
        return False
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", []):
        for rule in term["matchExpressions"]:
            assert rule["operator"] == "NotIn"
            if labels.get(rule["key"]) in rule["values"]:
                return False
    return all(
        any(
            (entry["key"], entry["value"], entry["effect"]) == (taint["key"], taint["value"], taint["effect"])
            for entry in pod["tolerations"]
        )
        for taint in taints
    )


def node(labels: dict[str, str], taints: list[dict[str, str]], cpu: str = "4") -> dict[str, Any]:
    """A ready node, as kubectl gives it."""
    return {
        "metadata": {"labels": {"kubernetes.io/os": "linux", **labels}},
        "spec": {"taints": [{**taint, "effect": "NoSchedule"} for taint in taints]},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def nodes_of(cloud: str) -> dict[str, dict[str, Any]]:
    """A node of each pool that a stack on `cloud` makes."""
    if cloud == "gke":
        pools = [pool.inputs["nodeConfig"] for pool in google_cloud.gke().all("nodePool:NodePool")]
    else:
        pools = [group.inputs for group in aws_cloud.eks().all("nodeGroup:NodeGroup")]
    return {
        pool["labels"]["future-kubernetes/role"]: node(
            pool["labels"], [{key: taint[key] for key in ("key", "value")} for taint in pool.get("taints", [])]
        )
        for pool in pools
    }


@pytest.mark.parametrize("cloud", ["gke", "eks"])
def test_a_second_stack_shares_the_firsts_pool_and_scheduler_node(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")
    values = campus(ANYWHERE).one("helm.sh/v3:Release").inputs["values"]
    nodes = nodes_of(cloud)
    assert [role for role, each in nodes.items() if admits(each, values["worker"])] == ["worker"]
    assert [role for role, each in nodes.items() if admits(each, values["scheduler"])] == ["system"]


def test_workers_without_such_pools_go_wherever_they_went() -> None:
    worker = campus(ANYWHERE).one("helm.sh/v3:Release").inputs["values"]["worker"]
    assert admits(node({}, []), worker)
    assert admits(node({"node-role.kubernetes.io/worker": ""}, []), worker)
    assert not admits(node({}, [{"key": "nvidia.com/gpu", "value": "present"}]), worker)


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A kubectl that answers with the given nodes, in place of the campus cluster's four."""
    monkeypatch.setattr(existing, "read_nodes", read_nodes)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))

    def answer(*nodes: dict[str, Any]) -> None:
        (tmp_path / "nodes.json").write_text(json.dumps({"items": nodes}))
        (tmp_path / "kubectl").write_text(f"#!/bin/sh\ncat {tmp_path}/nodes.json\n")
        (tmp_path / "kubectl").chmod(0o755)

    return answer


def test_room_for_workers_is_counted_on_nodes_they_may_use(kubectl: Callable[..., None]) -> None:
    pool, system = nodes_of("gke")["worker"], nodes_of("gke")["system"]
    gpu = node({}, [{"key": "nvidia.com/gpu", "value": "present"}], cpu="64")
    cordoned = {**node({}, []), "spec": {"unschedulable": True}}
    starting = node({}, [])
    starting["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    kubectl(pool, system, gpu, cordoned, starting)
    assert any("room for 4 of 20 workers" in text for text in campus(ANYWHERE).warnings)
    assert campus(ANYWHERE).outputs["nodes"][0] == "1 ready nodes of an existing cluster"


def test_nodes_of_another_architecture_are_warned_of_with_the_fix(kubectl: Callable[..., None]) -> None:
    arm, intel = node({"kubernetes.io/arch": "arm64"}, []), node({"kubernetes.io/arch": "amd64"}, [])
    for each in (arm, intel):
        each["status"]["nodeInfo"] = {"architecture": each["metadata"]["labels"]["kubernetes.io/arch"]}
    many = {**ANYWHERE, "workers": 4}
    kubectl(intel, intel, node({}, []))
    assert campus(many).warnings == []
    kubectl(intel, arm)
    (warning,) = campus(many).warnings
    assert "workers may run on nodes of architecture arm64" in warning
    assert "pulumi config set nodeSelector kubernetes.io/arch=amd64" in warning
    chosen = campus({**many, "nodeSelector": "kubernetes.io/arch=amd64"})
    assert not [text for text in chosen.warnings if "architecture" in text]


def test_pool_at_rest_is_no_reason_to_refuse_its_workers(kubectl: Callable[..., None]) -> None:
    kubectl(nodes_of("gke")["system"])
    assert campus({**ANYWHERE, "workerCpu": 3, "workerMemoryGiB": 12, "workerCpuLimit": ""}).warnings == []
    kubectl(node({}, [], cpu="1"))
    with pytest.raises(Refused, match="no node can hold a worker"):
        campus({**ANYWHERE, "workerCpu": 3, "workerCpuLimit": ""})


@pytest.mark.parametrize("cloud", ["gke", "eks"])
def test_a_first_stacks_outputs_are_all_that_a_second_needs(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_more: f"/nowhere/bin/{name}")
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["future-kubernetes:kubeconfigText"]')
    first = google_cloud.gke() if cloud == "gke" else aws_cloud.eks()
    text, secret = first.outputs["kubeconfig"]
    assert secret
    handed = {"kubeconfigText": text, "context": "", "image": first.outputs["image"][0]}
    second = campus({**handed, **OWN}, "biology")
    provider = second.one("pulumi:providers:kubernetes")
    assert "kubeconfig" in provider.secrets
    assert (
        json.loads(provider.inputs["kubeconfig"])["clusters"][0]["cluster"]
        == json.loads(text)["clusters"][0]["cluster"]
    )
    assert second.one("helm.sh/v3:Release").inputs["values"]["image"] == first.outputs["image"][0]
    assert second.asked == [], "an image by its digest asks no registry"
    told = {name: value for name, (value, _) in second.outputs.items()}
    assert told["kubeconfigCommand"] == (
        "mkdir -p ~/.kube && (umask 077 && "
        "pulumi stack output kubeconfig --show-secrets --stack biology > ~/.kube/future-biology)"
    )
    assert told["portForward"].startswith("kubectl --kubeconfig ~/.kube/future-biology --context ")


def test_kubeconfig_in_the_settings_is_secret_and_in_no_message() -> None:
    text = json.dumps({"clusters": [], "users": [{"user": {"token": "geheim"}}]})
    for config in (
        {"kubeconfigText": text},
        {"kubeconfigText": "geheim"},
        {"kubeconfig": text},
        {"kubeconfigText": text, "cloud": "gke", "project": "my-project", "region": "us-west1"},
        {"kubeconfigText": text + "}"},
    ):
        with pytest.raises(Refused) as caught:
            campus({**config, "context": ""})
        assert "geheim" not in str(caught.value)
    with pytest.raises(Refused, match="kept encrypted only"):
        campus({"kubeconfigText": text})


@pytest.mark.parametrize(("name", "lines"), [("gke-team", 12), ("eks-team", 12), ("campus", 18)])
def test_an_example_stack_is_a_handful_of_lines(name: str, lines: int) -> None:
    assert len((ROOT / f"Pulumi.{name}.yaml").read_text().splitlines()) <= lines


@pytest.mark.parametrize("cloud", ["eks", "gke"])
def test_worker_hours_of_the_record_follow_from_prices_and_sizing(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")
    text = (ROOT / "docs/decisions/0021-cost-and-time-of-a-worker.md").read_text()
    (row,) = re.findall(rf"^\| `{cloud}-team` \|(.*)\|$", text, re.MULTILINE)
    machine, on_demand, spot, workers, worker_on_demand, worker_on_spot = (cell.strip() for cell in row.split("|"))
    nodes = {"eks": aws_cloud.team, "gke": google_cloud.team}[cloud]().outputs["nodes"][0]
    assert f" x {machine}, {workers} workers each" in nodes
    assert f"{float(on_demand) / int(workers):.4f}" == worker_on_demand
    # Half of the last digit of a price may be lost by its rounding.
    assert abs(float(spot) / int(workers) - float(worker_on_spot)) < 0.0001


PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_and_output_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"pulumi config set (?:--secret )?(\w+)", text))
    assert named <= set(KEYS), named - set(KEYS)
    told = {*campus().outputs, "hostAddress"}
    asked = set(re.findall(r"pulumi stack output (\w+)", text))
    assert asked <= told, asked - told
    for key in re.findall(r"fix: +pulumi config set (\w+)", text):
        assert key in KEYS


def test_every_setting_that_a_message_tells_people_to_set_exists() -> None:
    sources = [path.read_text() for path in (ROOT / "components" / "clouds").rglob("*.py")]
    named = {key for text in sources for key in re.findall(r"pulumi config (?:set|rm) (\w+)", text)}
    assert {"zone", "systemMachineType", "authorizedNetworks"} <= named
    assert named <= set(KEYS), named - set(KEYS)
