"""Every setting has an effect: the program registers something else, or another output, when only this one changes.

A setting that nothing reads would be accepted, and believed to be in force.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.clouds import MODELS
from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing import local
from components.settings.keys import keys_of
from components.settings.model import Settings
from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import Recording, run

IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "ab" * 32
OTHER_IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "cd" * 32
ROLE = "arn:aws:iam::123456789012:role/statistics"
KUBECONFIG: dict[str, Any] = {
    "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
    "users": [{"name": "u", "user": {"token": "a-token"}}],
    "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("first", "second")],
    "current-context": "first",
}
BASES: dict[str, dict[str, Any]] = {
    "local": {"cloud": "local", "image": IMAGE},
    "kubeconfig": {"cloud": "kubeconfig", "image": IMAGE},
    "gke": {**google_cloud.GKE},
    "eks": {**aws_cloud.EKS},
}
EXISTING = {"image": OTHER_IMAGE, "context": "second", "kubeconfig": "OTHER"}
CHANGES: dict[str, dict[str, Any]] = {
    "local": EXISTING,
    "kubeconfig": {
        **EXISTING,
        "kubeconfigText": json.dumps(KUBECONFIG),
        "workers": 5,
        "homeGiB": 20,
        "workerMemoryGiB": 4,
    },
    "gke": {"image": OTHER_IMAGE, "machineType": "c3-standard-4", "systemMachineType": "e2-standard-4"},
    "eks": {
        "image": OTHER_IMAGE,
        "machineType": "m6i.2xlarge",
        "systemMachineType": "m6i.xlarge",
        "teamRoles": ROLE,
        "adminRoles": ROLE,
        "network": "vpc-campus",
    },
}
"""Values for settings whose example is the default, or of which the clouds' answers in the tests do not know."""
CHANGES["gke"] |= {"project": "other-project", "authorizedNetworks": "198.51.100.0/24", "ide": "jupyterlab"}
CHANGES["eks"] |= {"authorizedNetworks": "198.51.100.0/24", "region": "us-west-2"}
COMMON = {"ide": "jupyterlab", "schedulerCpu": 1, "password": "long enough it is", "rRepository": "https://e.org/r"}
BUDGET = {"monthlyBudget": 500, "budgetEmail": "team@example.org"}
LOGIN = {
    "oidcIssuer": "https://login.example.org",
    "oidcClientId": "r",
    "oidcClientSecret": "a-secret",
    "oidcUsers": "ada@example.org",
}
CAMPUS_NETWORK = {"network": "vpc-campus", "subnets": "subnet-1,subnet-2"}
TOGETHER: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    ("gke", "network"): ({}, {"network": "campus", "subnets": "nodes"}),
    ("gke", "subnets"): ({"network": "campus", "subnets": "nodes"}, {"network": "campus", "subnets": "others"}),
    ("gke", "zone"): ({}, {"zone": "us-west1-b"}),
    ("gke", "otherMachineTypes"): ({"spot": "true"}, {"spot": "true", "otherMachineTypes": "n4-standard-4"}),
    ("eks", "zone"): ({}, {"zone": "us-west-2c"}),
    ("eks", "network"): ({}, CAMPUS_NETWORK),
    ("eks", "subnets"): (CAMPUS_NETWORK, {**CAMPUS_NETWORK, "subnets": "subnet-3,subnet-2"}),
    ("eks", "publicSubnets"): (
        {**CAMPUS_NETWORK, "host": "r.example.org", "publicSubnets": "subnet-3"},
        {**CAMPUS_NETWORK, "host": "r.example.org", "publicSubnets": "subnet-3,subnet-other"},
    ),
    **{
        (cloud, "acmeEmail"): ({"host": "r.example.org"}, {"host": "r.example.org", "acmeEmail": "a@example.org"})
        for cloud in ("gke", "eks")
    },
    **{(cloud, name): ({}, BUDGET) for cloud in ("gke", "eks") for name in ("monthlyBudget", "budgetEmail")},
    **{
        (cloud, "hostNetworks"): (
            {"host": "r.example.org"},
            {"host": "r.example.org", "hostNetworks": "203.0.113.0/24"},
        )
        for cloud in ("gke", "eks")
    },
    **{(cloud, "warmWorkers"): ({"maxWorkers": 40}, {"maxWorkers": 40, "warmWorkers": 8}) for cloud in ("gke", "eks")},
    ("eks", "spot"): ({}, {"spot": "true"}),
    ("kubeconfig", "oidcIssuer"): ({"host": "r.example.org"}, {"host": "r.example.org", **LOGIN}),
    **{
        ("kubeconfig", name): ({"host": "r.example.org", **LOGIN}, {"host": "r.example.org", **LOGIN, name: other})
        for name, other in (
            ("oidcClientId", "another"),
            ("oidcClientSecret", "another-secret"),
            ("oidcUsers", "bob@example.org"),
        )
    },
    ("kubeconfig", "cullIdleKernels"): ({"idleMinutes": 30}, {"idleMinutes": 30, "cullIdleKernels": True}),
    ("kubeconfig", "keepHome"): ({"createNamespace": False}, {"createNamespace": False, "keepHome": True}),
    ("kubeconfig", "imagePullSecrets"): (
        {"createNamespace": False},
        {"createNamespace": False, "imagePullSecrets": "registry-login"},
    ),
    # Four cores of a node are shared out among four workers, so that one of 1 core is no change of the number of nodes.
    ("gke", "workerCpu"): ({}, {"workerCpu": 2}),
}
"""Settings that have a meaning only with others: the config before and after."""

WITHOUT_EFFECT = {
    ("local", "rPackages"): "`make up` reads it when it builds the image",
    ("local", "aptPackages"): "`make up` reads it when it builds the image",
    ("kubeconfig", "rPackages"): "refused: no image is built",
    ("kubeconfig", "aptPackages"): "refused: no image is built",
    (
        "gke",
        "region",
    ): "Google's answers in the tests know one region; test_gke.py checks it",
    ("eks", "region"): "AWS's answers in the tests know one region; test_eks.py checks it",
}
"""Settings that change nothing that the program registers, each with the reason."""


def cases() -> list[tuple[str, str]]:
    """Each cloud's own settings on that cloud, and the common ones on an existing cluster, where runs are quick."""
    common = set(keys_of(Settings))
    own = [(cloud, name) for cloud, model in MODELS.items() for name in keys_of(model) if name not in common]
    shared = [("kubeconfig", name) for name in sorted(common - {"cloud"})]
    return [*own, *shared, ("gke", "rPackages"), ("gke", "aptPackages"), ("gke", "image"), ("local", "workerCpu")]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kubeconfig and another one, a cluster with roomy nodes, and every program on PATH."""
    (tmp_path / "config").write_text(json.dumps(KUBECONFIG))
    (tmp_path / "other").write_text(json.dumps(KUBECONFIG).replace("10.0.0.1", "10.0.0.2"))
    for variable in ("KUBECONFIG", "FUTURE_KUBERNETES_KUBECONFIG"):
        monkeypatch.setenv(variable, str(tmp_path / "config"))
    monkeypatch.setitem(EXISTING, "kubeconfig", str(tmp_path / "other"))
    secrets = ["password", "rRepository", "kubeconfigText", "oidcClientSecret"]
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps([f"future-kubernetes:{name}" for name in secrets]))
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker.invalid:2376")
    monkeypatch.setattr(shutil, "which", lambda name, **_more: f"/nowhere/bin/{name}")
    for module in (existing, local):
        monkeypatch.setattr(module, "read_nodes", lambda *_args: [Allocatable(64000, 262144)] * 4)
        monkeypatch.setattr(module, "check_home", lambda *_args: None)
        monkeypatch.setattr(module, "check_operator", lambda _access: None)
    monkeypatch.setattr(existing, "check_pull_secrets", lambda *_args: None)
    monkeypatch.setattr(existing, "check_namespace", lambda *_args: None)


def program(config: Mapping[str, Any]) -> Recording:
    if config["cloud"] == "gke":
        answers = {**google_cloud.ANSWERS, google_cloud.GET_SNAPSHOT: google_cloud.a_snapshot()}
        return run(config, answers, google_cloud.computed, stack_name="dev")
    if config["cloud"] == "eks":
        answers = {**aws_cloud.ANSWERS, aws_cloud.GET_SNAPSHOT: aws_cloud.a_snapshot()}
        return run(config, answers, aws_cloud.computed, stack_name="dev")
    return run(config, {}, lambda *_: {}, stack_name="dev")


def effect(recording: Recording) -> tuple[Any, ...]:
    """All resources and outputs of a run."""
    resources = {resource.urn: (resource.sent, sorted(resource.depends_on)) for resource in recording.resources}
    return resources, recording.outputs


def changed(cloud: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config before and after one setting is changed."""
    before, after = TOGETHER.get((cloud, name), ({}, None))
    if after is None:
        known = {**COMMON, **CHANGES[cloud], **({"kubeconfig": EXISTING["kubeconfig"]} if cloud in EXISTED else {})}
        after = {name: known.get(name, keys_of(MODELS[cloud])[name].example)}
    return {**BASES[cloud], **before}, {**BASES[cloud], **after}


EXISTED = ("local", "kubeconfig")


@pytest.mark.parametrize(("cloud", "name"), [case for case in cases() if case not in WITHOUT_EFFECT])
def test_a_setting_that_changes_changes_what_is_registered_or_told(cloud: str, name: str) -> None:
    before, after = changed(cloud, name)
    assert before != after
    assert effect(program(before)) != effect(program(after))


def test_the_same_settings_have_the_same_effect() -> None:
    for base in BASES.values():
        assert effect(program(base)) == effect(program(base))


def test_setting_without_an_effect_is_one_that_exists() -> None:
    for cloud, name in WITHOUT_EFFECT:
        assert name in keys_of(MODELS[cloud])
