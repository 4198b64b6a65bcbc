"""Values that the chart refuses, with a message that names the key and the fix."""

from typing import Any

import pytest

from .conftest import CHART, MINIMAL, Helm, merged


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"worker": {"replicas": "four"}}, ["/worker/replicas", "got string, want integer"]),
        ({"worker": {"replicas": -1}}, ["/worker/replicas", "got -1, want 0"]),
        ({"worker": {"replicas": 1.5}}, ["/worker/replicas", "want integer"]),
        ({"worker": {"replicas": 1_000_000}}, ["/worker/replicas", "want 5,000"]),
        ({"workers": 4}, ["'workers' not allowed"]),
        ({"worker": {"replica": 4}}, ["/worker", "'replica' not allowed"]),
        ({"worker": {"resources": {"request": {}}}}, ["/worker/resources", "'request' not allowed"]),
        ({"worker": {"resources": {"requests": {"memory": "4 GB"}}}}, ["/worker/resources/requests/memory"]),
        ({"worker": {"tolerations": [{"key": "a", "operators": "Exists"}]}}, ["/worker/tolerations/0", "'operators'"]),
        ({"worker": {"extraEnv": [{"name": "FUTURE_KUBERNETES_RELEASE", "value": "x"}]}}, ["/worker/extraEnv/0/name"]),
        ({"worker": {"extraEnv": [{"value": "x"}]}}, ["/worker/extraEnv/0", "'name'"]),
        (
            {"worker": {"extraEnv": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}},
            ["'not'"],
        ),
        ({"worker": {"extraEnv": [{"name": "A", "valueFrom": {"secretRef": {"name": "x"}}}]}}, ["'secretRef'"]),
        ({"worker": {"extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}}, ["'key'"]),
        ({"worker": {"extraEnv": [{"name": "A", "value": 1}]}}, ["/worker/extraEnv/0/value", "want string"]),
        ({"worker": {"affinity": {"nodeAfinity": {}}}}, ["/worker/affinity", "'nodeAfinity'"]),
        ({"worker": {"topologySpreadConstraints": [{"maxSkew": 1}]}}, ["/worker/topologySpreadConstraints/0"]),
        ({"scheduler": {"priorityClassName": "High Priority"}}, ["/scheduler/priorityClassName"]),
        ({"scheduler": {"resources": {"limits": {"cpu": "two"}}}}, ["/scheduler/resources/limits/cpu"]),
        ({"imagePullSecrets": ["registry-login"]}, ["/imagePullSecrets/0", "want object"]),
        ({"networkPolicy": {"extraEgress": [{}]}}, ["/networkPolicy/extraEgress/0"]),
        ({"networkPolicy": {"extraEgress": [{"to": [{"ipBlok": {}}]}]}}, ["/networkPolicy/extraEgress/0", "'ipBlok'"]),
        ({"networkPolicy": {"metricsFrom": [{}]}}, ["/networkPolicy/metricsFrom/0"]),
        ({"ide": "emacs"}, ["/ide", "'rstudio', 'jupyterlab', 'both'"]),
        ({"scheduler": {"homeGiB": "10Gi"}}, ["/scheduler/homeGiB", "want integer"]),
        ({"shared": {"GiB": -1}}, ["/shared/GiB"]),
        ({"host": "https://r.example.org"}, ["/host"]),
        ({"host": "localhost"}, ["/host"]),
        ({"idleMinutes": True}, ["/idleMinutes", "want integer"]),
        ({"labels": {"component": "x"}}, ["'component'"]),
        ({"labels": {"app.kubernetes.io/name": "x"}}, ["'app.kubernetes.io/name'"]),
        ({"labels": {"cost": "a b"}}, ["/labels/cost"]),
        ({"networkPolicy": {"apiServerCIDRs": []}}, ["/networkPolicy/apiServerCIDRs"]),
        ({"networkPolicy": {"apiServerPorts": [70000]}}, ["/networkPolicy/apiServerPorts/0"]),
        ({"fullnameOverride": 37 * "a"}, ["/fullnameOverride"]),
        ({"image": "a b"}, ["/image"]),
        ({"imagePullPolicy": "Sometimes"}, ["/imagePullPolicy"]),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(helm: Helm, values: dict[str, Any], said: list[str]) -> None:
    message = helm.refusal(merged(MINIMAL, values))
    for part in said:
        assert part in message


def test_all_wrong_values_are_reported_at_once(helm: Helm) -> None:
    message = helm.refusal({"worker": {"replicas": "four"}, "ide": "emacs", "idel": 1})
    for part in ("/worker/replicas", "/ide", "'idel'"):
        assert part in message


def test_an_empty_image_is_refused_with_the_fix(helm: Helm) -> None:
    assert "--set image=REGISTRY/NAME@sha256:DIGEST" in helm.refusal({"auth": {"existingSecret": "s"}})


def test_missing_secret_is_refused_with_the_commands_that_fix_it(helm: Helm) -> None:
    message = helm.refusal({"image": "x"})
    assert "kubectl --namespace team create secret generic NAME" in message
    assert "--from-file=password=<(printf %s " in message
    assert "--from-file=token=<(printf %s " in message
    assert "--set auth.existingSecret=NAME" in message


def test_max_replicas_below_replicas_is_refused_with_the_fix(helm: Helm) -> None:
    message = helm.refusal(merged(MINIMAL, {"worker": {"replicas": 4, "maxReplicas": 3}}))
    assert "worker.maxReplicas is 3, below worker.replicas, which is 4. Give at least 4" in message


@pytest.mark.parametrize(
    ("counted", "key"),
    [
        ("limits.cpu", "scheduler.resources.limits.cpu"),
        ("requests.ephemeral-storage", "scheduler.resources.requests.ephemeral-storage"),
    ],
)
def test_quota_too_small_for_the_pods_is_refused_with_fix(helm: Helm, counted: str, key: str) -> None:
    message = helm.refusal(merged(MINIMAL, {"resourceQuota": {"hard": {counted: "4"}}}))
    assert f"resourceQuota.hard counts {counted}, but {key} is not set" in message


def test_a_quota_on_resources_that_all_pods_set_is_accepted(helm: Helm) -> None:
    hard = {"requests.cpu": "4", "limits.memory": "9Gi", "cpu": "4", "pods": 9}
    assert "kind: ResourceQuota" in helm.template({"resourceQuota": {"hard": hard}})


def test_an_old_kubernetes_is_refused(helm: Helm) -> None:
    done = helm.run("template", "lab", str(CHART), "--kube-version", "1.26.0", values=MINIMAL)
    assert done.returncode != 0
    assert "requires kubeVersion" in done.stderr
