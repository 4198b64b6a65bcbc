"""Lookups of the chart in the cluster: the live number of workers, and the keys of the Secret.

tests/e2e/test_upgrade.py upgrades a real release.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from .conftest import CHART, MINIMAL, ClusterStandIn, Helm, merged

DEPLOYMENT = "/apis/apps/v1/namespaces/team/deployments/lab-future-kubernetes-worker"
SECRET = "/api/v1/namespaces/team/secrets/r-login"
ALWAYS_THERE = "/api/v1/namespaces/team/configmaps/kube-root-ca.crt"


def deployed(replicas: int, live: int) -> dict[str, Any]:
    """A worker Deployment that was installed with ``replicas`` and has since been scaled to ``live``."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "lab-future-kubernetes-worker",
            "namespace": "team",
            "annotations": {"future-kubernetes/replicas": str(replicas)},
        },
        "spec": {"replicas": live},
    }


@pytest.mark.parametrize(
    ("last", "live", "values", "expected"),
    [
        pytest.param(4, 40, {"replicas": 4, "maxReplicas": 40}, 40, id="unchanged: R's own number stays"),
        pytest.param(4, 0, {"replicas": 4, "maxReplicas": 40}, 0, id="unchanged: idle workers stay away"),
        pytest.param(4, 40, {"replicas": 8, "maxReplicas": 40}, 8, id="changed: the new number wins"),
        pytest.param(4, 40, {"replicas": 4, "maxReplicas": 10}, 10, id="unchanged, but above a new maximum"),
        pytest.param(0, 7, {"replicas": 0, "maxReplicas": 9}, 7, id="unchanged zero"),
    ],
)
def test_upgrade_keeps_live_number_of_workers_unless_it_sets_another(
    helm: Helm, cluster: ClusterStandIn, last: int, live: int, values: dict[str, Any], expected: int
) -> None:
    cluster.objects[DEPLOYMENT] = deployed(last, live)
    show = ("--dry-run=server", "--show-only", "templates/worker-deployment.yaml")
    found = yaml.safe_load(helm.template({"worker": values}, *show))
    assert found["spec"]["replicas"] == expected
    assert found["metadata"]["annotations"]["future-kubernetes/replicas"] == str(values["replicas"])


def test_workers_without_the_annotation_get_the_number_of_the_values(helm: Helm, cluster: ClusterStandIn) -> None:
    cluster.objects[DEPLOYMENT] = deployed(4, 40)
    del cluster.objects[DEPLOYMENT]["metadata"]["annotations"]
    manifest = helm.template({}, "--dry-run=server", "--show-only", "templates/worker-deployment.yaml")
    assert yaml.safe_load(manifest)["spec"]["replicas"] == 2


def test_a_missing_secret_is_reported_before_anything_is_created(helm: Helm, cluster: ClusterStandIn) -> None:
    cluster.objects[ALWAYS_THERE] = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "kube-root-ca.crt"}}
    command = ["install", "lab", str(CHART), "--namespace", "team", "--dry-run=server", "--disable-openapi-validation"]
    done = helm.run(*command, values=MINIMAL)
    assert done.returncode != 0
    assert 'there is no Secret "r-login" in namespace "team"' in done.stderr
    assert "kubectl --namespace team create secret generic r-login --from-file=password=" in done.stderr

    cluster.objects[SECRET] = {"kind": "Secret", "apiVersion": "v1", "data": {"password": "cGFzcw=="}}
    done = helm.run(*command, values=MINIMAL)
    assert done.returncode != 0
    assert 'has no key "token"' in done.stderr


@pytest.mark.parametrize("ide", ["rstudio", "jupyterlab", "both"])
def test_neither_password_nor_token_is_in_anything_that_helm_prints(
    cluster: ClusterStandIn, install: Callable[[Mapping[str, Any]], str], ide: str
) -> None:
    secrets = {"password": "correct horse battery", "token": "token-" + 32 * "x"}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in secrets.items()}
    cluster.objects[ALWAYS_THERE] = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "kube-root-ca.crt"}}
    cluster.objects[SECRET] = {"kind": "Secret", "apiVersion": "v1", "data": encoded}
    printed = install(merged({"ide": ide, "host": "r.example.org"}, {}))
    assert "kind: Deployment" in printed
    for value in (*secrets.values(), *encoded.values()):
        assert value not in printed


@pytest.mark.parametrize("live", [None, 0, 5])
def test_an_upgrade_keeps_the_live_number_of_placeholders(
    helm: Helm, cluster: ClusterStandIn, live: int | None
) -> None:
    if live is not None:
        found = deployed(4, live)
        found["metadata"]["name"] = "lab-future-kubernetes-warm"
        cluster.objects[DEPLOYMENT.replace("-worker", "-warm")] = found
    show = ("--dry-run=server", "--show-only", "templates/warm-deployment.yaml")
    objects = yaml.safe_load_all(helm.template({"worker": {"warmReplicas": 8}}, *show))
    (made,) = (each for each in objects if each["kind"] == "Deployment")
    assert made["spec"]["replicas"] == (live or 0), "the broker sets it"
