"""GKE under mocks: refusals before anything is created, and facts about machines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.google_cloud import MACHINE_TYPES, gke, refused, team

pytestmark = pytest.mark.usefixtures("installed_tools")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"region": "us-nowhere1"}, "pulumi config set region|gcloud compute regions list"),
        ({"zone": "us-west1-z"}, "us-west1-a, us-west1-b, us-west1-c"),
        ({"machineType": "e2-standard-5"}, "e2-standard-2, e2-standard-4"),
        ({"machineType": "c3-standard-4", "zone": "us-west1-a"}, "zone us-west1-a does not offer"),
        ({"machineType": "t2a-standard-4"}, "x86-64"),
        ({"machineType": "g2-standard-4"}, "without an accelerator"),
        ({"machineType": "ct5lp-hightpu-1t"}, "without an accelerator"),
        ({"systemMachineType": "g2-standard-4"}, "without an accelerator"),
        ({"systemMachineType": "z9-huge"}, "pulumi config set systemMachineType e2-standard-2"),
        ({"workerCpu": 6}, "pulumi config set machineType e2-highmem-8"),
        ({"workerMemoryGiB": 14}, "a type on which it fits: e2-highmem-8\n"),
        ({"systemMachineType": "n4-standard-4"}, "takes no persistent disk"),
        ({"schedulerMemoryGiB": 9}, "pulumi config set systemMachineType"),
        ({"sharedGiB": 100}, "pulumi config set sharedGiB 1024"),
        ({"network": "campus"}, "pulumi config set subnets"),
        ({"workers": 10, "maxWorkers": 4}, "at least workers, which is 10"),
    ],
)
def test_impossible_settings_are_refused_with_a_fix(config: dict[str, Any], said: str) -> None:
    message = refused(config)
    assert any(part in message for part in said.split("|")), message
    assert "fix:" in message


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("google: could not find default credentials", "gcloud auth application-default login"),
        ('oauth2: "invalid_grant" "reauth related error"', "gcloud auth application-default login"),
        (
            "Error 403: Compute Engine API has not been used in project 1 before or it is disabled",
            "gcloud services enable",
        ),
        ("Error 404: The resource 'projects/my-project' was not found", "check the project's ID"),
        ("Error 403: Required 'compute.zones.list' permission", "your role in it"),
    ],
)
def test_refusals_of_google_are_reported_with_their_fix(reason: str, fix: str) -> None:
    def refuse(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    message = refused({}, {"gcp:compute/getZones:getZones": refuse})
    assert fix in message
    assert reason in message


def test_missing_auth_plugin_is_refused_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "gke-gcloud-auth-plugin" else name)
    message = refused({}, {"no-run-before": lambda _args: {}})
    assert "gcloud components install gke-gcloud-auth-plugin" in message


def test_workers_beyond_the_cpu_quota_are_refused() -> None:
    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": ["us-west1"], "details": [{"value": "12"}]}]}

    answers = {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota}
    message = refused({"workers": 4, "maxWorkers": 40}, answers)
    assert "42 vCPUs" in message
    assert "12 vCPUs" in message
    assert gke({"workers": 8}, answers).all("nodePool:NodePool")

    def in_all_regions(args: Mapping[str, Any]) -> dict[str, Any]:
        value = "12" if args["quotaId"] == "CPUS-ALL-REGIONS-per-project" else "999"
        places = ["global"] if value == "12" else ["us-west1"]
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": places, "details": [{"value": value}]}]}

    assert "in all regions" in refused({"workers": 40}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": in_all_regions})


def test_shared_core_machines_get_smaller_worker_requests() -> None:
    sizes = [
        gke({"machineType": name, "workers": 1}).one("v3:Release").inputs["values"]["worker"]["resources"]["requests"]
        for name in ("e2-medium", "e2-standard-2")
    ]
    assert int(sizes[0]["cpu"].removesuffix("m")) < int(sizes[1]["cpu"].removesuffix("m")) / 2


def test_machine_size_comes_from_google(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [args for token, args, provider in team().asked if token.startswith("gcp:compute/getMachineTypes")]
    assert asked
    assert all("e2-standard-4" in args["filter"] for args in asked)
    monkeypatch.setitem(MACHINE_TYPES, "e2-standard-4", (2, 8192, "X86_64", False, MACHINE_TYPES["e2-standard-4"][4]))
    smaller = gke({"workers": 10}, {"unused": lambda _args: {}})
    assert smaller.one("nodePool:NodePool", "workers").inputs["nodeCount"] == 5


def test_smallest_of_several_quota_limits_counts() -> None:
    def quota(_args: Mapping[str, Any]) -> dict[str, Any]:
        limits = [{"applicableLocations": ["us-west1"], "details": [{"value": value}]} for value in ("999", "12")]
        return {"id": "q", "dimensionsInfos": limits}

    assert "12 vCPUs" in refused({"workers": 40}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota})


@pytest.mark.parametrize("limit", ["10", "-1"])
def test_workers_within_the_cpu_quota_or_without_one_are_accepted(limit: str) -> None:
    def quota(_args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": ["us-west1"], "details": [{"value": limit}]}]}

    done = gke({"workers": 8}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota})
    assert done.one("nodePool:NodePool", "workers").inputs["nodeCount"] == 2, "8 vCPUs, and 2 of the system node"


def test_project_without_any_cpu_quota_is_refused() -> None:
    def quota(_args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": ["us-west1"], "details": [{"value": "0"}]}]}

    assert "0 vCPUs" in refused({}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota})


def test_quota_of_another_region_does_not_count() -> None:
    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        elsewhere = {"applicableLocations": ["europe-west4"], "details": [{"value": "1"}]}
        unlimited = {"applicableLocations": ["us-west1"], "details": []}
        return {"id": "q", "dimensionsInfos": [elsewhere, unlimited] if "region" in args["quotaId"] else []}

    assert gke({}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota}).all("nodePool:NodePool")
