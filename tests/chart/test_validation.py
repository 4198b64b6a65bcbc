"""The rendered objects against the schemas of Kubernetes itself, and against kube-score's advice."""

import copy
import json
import subprocess
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from common.patience import patience

from .conftest import CASES, CHART, MINIMAL, Helm, binary, merged

# The oldest that Chart.yaml allows, and the newest whose schemas the package has.
VERSIONS = ["1.27", "1.37"]

# Advice that is not followed, and why. Nothing else may be advised against.
ACCEPTED = {
    "container-image-pull-policy": "images go by digest: pulling again would give the same",
    "container-ephemeral-storage-request-and-limit": "a limit evicts a pod whose user writes to /tmp",
    "container-security-context-user-group-id": "1000 is the user in rocker's images",
    "deployment-replicas": "one scheduler: R sessions live in it",
    "deployment-strategy": "Recreate: two schedulers would share one home",
}
ACCEPTED_FOR_WORKERS = {
    "deployment-has-poddisruptionbudget": "a drained worker's future runs again elsewhere",
    "deployment-has-host-podantiaffinity": "nodes are sized to hold several workers",
}


def invalid(found: dict[str, Any], version: str) -> str:
    """Reason for which a version of Kubernetes would refuse an object; empty if it would not."""
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_kubernetes(helm: Helm, case: dict[str, Any], version: str) -> None:
    for key, found in helm.objects(case).items():
        if not found["apiVersion"].startswith("monitoring.coreos.com/"):  # see test_alerts.py and test_dashboard.py
            assert not invalid(found, version), key


@pytest.mark.parametrize("version", VERSIONS)
def test_the_validator_refuses_an_unknown_field_and_a_wrong_type(helm: Helm, version: str) -> None:
    good = helm.objects({})["Deployment", "lab-future-kubernetes-worker"]
    unknown = copy.deepcopy(good)
    unknown["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    assert "imagePullPolcy" in invalid(unknown, version)
    wrong = copy.deepcopy(good)
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "30"
    assert invalid(wrong, version)
    missing = copy.deepcopy(good)
    del missing["spec"]["selector"]
    assert invalid(missing, version)


def test_helm_lint_finds_nothing(helm: Helm, case: dict[str, Any]) -> None:
    done = helm.run("lint", str(CHART), "--strict", "--kube-version", "1.36.0", values=merged(MINIMAL, case))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", ["minimal", "jupyterlab", "host", "shared", "spot", "zero-workers"])
def test_kube_score_advises_only_what_is_declined_with_a_reason(helm: Helm, case: str) -> None:
    ignored = [flag for check in ACCEPTED for flag in ("--ignore-test", check)]
    # A CPU limit would leave an idle node's cores unused.
    options = ["--kubernetes-version", "v1.36", "--ignore-container-cpu-limit", "--output-format", "json"]
    done = subprocess.run(
        [binary("kube-score"), "score", *options, *ignored, "-"],
        input=helm.template(CASES[case]),
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    scored = json.loads(done.stdout)
    assert len(scored) >= 7, done.stderr
    advice = {
        (found["object_name"], check["check"]["id"]): [comment["summary"] for comment in check["comments"]]
        for found in scored
        for check in found["checks"] or []
        # Grades: 1 critical, 5 warning, 7 almost, 10 all right.
        if not check["skipped"]
        and check["grade"] < 7
        and not (found["object_name"].endswith("-worker") and check["check"]["id"] in ACCEPTED_FOR_WORKERS)
    }
    assert not advice
