"""GKE under mocks: refusals before anything is created, and facts about machines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.cloud_mocks import Answer
from tests.unit.google_cloud import MACHINE_TYPES, gke, refused, team

QUOTA = "gcp:cloudquota/getSQuotaInfo:getSQuotaInfo"

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
        ({"maxWorkers": 4081}, "pulumi config set maxWorkers 4080"),
        ({"maxWorkers": 241, "vpcCidr": "10.20.0.0/16"}, "each with a /24 of the pods' /18"),
        (
            {"maxWorkers": 241, "vpcCidr": "10.20.0.0/16"},
            "maxWorkers 240, or set a larger machineType or a larger vpcCidr",
        ),
        ({"vpcCidr": "10.0.0.0/19"}, "from /12 to /18"),
        ({"vpcCidr": "10.0.0.0/11"}, "from /12 to /18"),
        ({"vpcCidr": "8.8.0.0/16"}, "private addresses"),
        ({"vpcCidr": "10.0.0.1/16"}, "such as 10.32.0.0/12"),
        ({"vpcCidr": "fd00::/16"}, "an IPv4 network"),
        ({"network": "campus", "subnets": "s", "vpcCidr": "10.32.0.0/12"}, "pulumi config rm vpcCidr"),
        ({"egress": "10.5.0.7:5432"}, "10.4.0.0/14 is the range of the pods, and egress has 10.5.0.7/32:5432"),
        ({"egress": "10.8.1.0/24:443"}, "10.8.0.0/20 is the range of the services"),
        ({"egress": "10.0.0.9:22"}, "10.0.0.0/20 is the range of the nodes"),
        ({"egress": "10.33.64.9:22", "vpcCidr": "10.33.0.0/16"}, "pulumi config set vpcCidr 10.32.0.0/12"),
        ({"sharedGiB": 100}, "pulumi config set sharedGiB 1024"),
        ({"network": "campus"}, "pulumi config set subnets"),
        ({"otherMachineTypes": "n4-standard-4"}, "pulumi config set spot fallback"),
        ({"spot": True, "otherMachineTypes": "n4-standard-4,e2-highmem-8"}, "e2-highmem-8, which has 8 vCPUs and 64"),
        ({"spot": True, "otherMachineTypes": "e2-highmem-8"}, "types with 4 vCPUs and 16 GiB, like e2-standard-4"),
        (
            {"spot": True, "otherMachineTypes": "n4-standard-4,e2-highmem-8"},
            "pulumi config set otherMachineTypes n4-standard-4",
        ),
        ({"spot": True, "otherMachineTypes": "e2-highmem-8"}, "pulumi config rm otherMachineTypes"),
        (
            {"spot": True, "machineType": "e2-standard-2", "otherMachineTypes": "n2-shared-2"},
            "types with 2 vCPUs and 8 GiB and no share of a core",
        ),
        (
            {"spot": True, "otherMachineTypes": "t2a-standard-4"},
            "otherMachineTypes has 't2a-standard-4', which no zone",
        ),
        ({"spot": True, "otherMachineTypes": "g2-standard-4"}, "for x86-64 without an accelerator"),
        ({"spot": True, "otherMachineTypes": "n4-standard-5"}, "pulumi config rm otherMachineTypes"),
        (
            {"spot": True, "zone": "us-west1-a", "otherMachineTypes": "c3-standard-4"},
            "otherMachineTypes has 'c3-standard-4', which zone us-west1-a does not offer",
        ),
        ({"workers": 10, "maxWorkers": 4}, "at least workers, which is 10"),
    ],
)
def test_impossible_settings_are_refused_with_a_fix(config: dict[str, Any], said: str) -> None:
    message = refused(config)
    assert any(part in message for part in said.split("|")), message
    assert "fix:" in message


@pytest.mark.parametrize(
    "config",
    [
        {"maxWorkers": 240, "vpcCidr": "10.20.0.0/16"},
        {"egress": "10.10.0.7:5432,10.0.0.0/8:443,[fd00::7]:5432"},
        {"egress": "10.5.0.7:5432", "vpcCidr": "172.16.0.0/14"},
        {"egress": "10.5.0.7:5432", "network": "campus", "subnets": "s"},
    ],
)
def test_addresses_that_do_not_collide_are_accepted(config: dict[str, Any]) -> None:
    assert gke(config).warnings == []


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


def only_cpus(quota: Answer) -> Answer:
    """The same answer for the general quotas of CPUs, and no limit of any other."""
    return lambda args: quota(args) if args["quotaId"].startswith("CPUS-") else {"id": "q", "dimensionsInfos": []}


def limits(**limit: str) -> dict[str, Answer]:
    """A project with these quotas in us-west1, named without their ends and with _ for -, and no others.

    A name that ends in a family in lower case is that family's part of the quota of all families.
    """

    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        name = args["quotaId"].removesuffix("-per-project-region").replace("-", "_")
        found = [
            (key, value)
            for key, value in limit.items()
            if key.rstrip("abcdefghijklmnopqrstuvwxyz0123456789") == name or key == name
        ]
        if not found:
            raise PermissionError(f"404 no quota {args['quotaId']}")
        return {
            "id": "q",
            "dimensionsInfos": [
                {
                    "applicableLocations": ["us-west1"],
                    "details": [{"value": value}],
                    "dimensions": {"region": "us-west1", **family(key, name)},
                }
                for key, value in found
            ],
        }

    def family(key: str, name: str) -> dict[str, str]:
        return {"vm_family": key.removeprefix(name).upper()} if key != name else {}

    return {QUOTA: quota}


SEVERAL = {"spot": True, "otherMachineTypes": "c3-standard-4"}


@pytest.mark.parametrize(
    ("config", "quotas", "said"),
    [
        ({"machineType": "c3-standard-4"}, {"CPUS": "8", "C3_CPUS": "40"}, ""),
        ({"machineType": "c3-standard-4"}, {"CPUS": "80", "C3_CPUS": "39"}, "quota C3-CPUS-per-project-region"),
        (
            {"machineType": "n4-standard-4"},
            {"CPUS": "8", "CPUS_PER_VM_FAMILYn4": "40", "CPUS_PER_VM_FAMILYc4": "1"},
            "",
        ),
        ({"machineType": "n4-standard-4"}, {"CPUS": "8", "CPUS_PER_VM_FAMILYn4": "39"}, "CPUS-PER-VM-FAMILY"),
        ({"machineType": "n4-standard-4"}, {"CPUS": "1"}, "2 vCPUs are needed"),
        ({}, {"CPUS": "41", "C3_CPUS": "99"}, "42 vCPUs are needed"),
        ({"spot": True}, {"CPUS": "2", "PREEMPTIBLE_CPUS": "40"}, ""),
        ({"spot": True}, {"CPUS": "99", "PREEMPTIBLE_CPUS": "39"}, "PREEMPTIBLE"),
        ({"spot": True}, {"CPUS": "41", "PREEMPTIBLE_CPUS": "0"}, "42 vCPUs are needed"),
        ({"spot": "fallback"}, {"CPUS": "10", "PREEMPTIBLE_CPUS": "32"}, ""),
        ({"spot": "fallback"}, {"CPUS": "9", "PREEMPTIBLE_CPUS": "32"}, "for which 42 vCPUs are needed"),
        ({"spot": "fallback"}, {"CPUS": "8", "PREEMPTIBLE_CPUS": "33"}, "41 vCPUs, the project's quota PREEMPTIBLE"),
        ({"spot": "fallback"}, {"CPUS": "41", "PREEMPTIBLE_CPUS": "0"}, "42 vCPUs are needed"),
        (SEVERAL, {"CPUS": "22", "C3_CPUS": "20"}, ""),
        (
            SEVERAL,
            {"CPUS": "21", "C3_CPUS": "20"},
            "41 vCPUs, the project's quota CPUS-per-project-region with C3-CPUS",
        ),
        (SEVERAL, {"CPUS": "42", "C3_CPUS": "0"}, "pulumi config rm otherMachineTypes, or ask for more"),
        (SEVERAL, {"CPUS": "42", "C3_CPUS": "3"}, "quota: C3-CPUS-per-project-region is 3 in us-west1"),
        (SEVERAL, {"CPUS": "2", "PREEMPTIBLE_CPUS": "40", "C3_CPUS": "0"}, ""),
        (SEVERAL, {"CPUS": "2", "C3_CPUS": "-1"}, ""),
        (SEVERAL, {"CPUS": "2"}, ""),
        (SEVERAL, {"SSD_TOTAL_GB": "559"}, "560 GB of SSD are needed"),
        ({"spot": True, "otherMachineTypes": "n4-standard-4"}, {"SSD_TOTAL_GB": "60"}, ""),
        ({}, {"SSD_TOTAL_GB": "559"}, "560 GB of SSD are needed"),
        ({}, {"SSD_TOTAL_GB": "560"}, ""),
        ({"machineType": "n4-standard-4"}, {"SSD_TOTAL_GB": "60"}, ""),
        ({"homeGiB": 500}, {"SSD_TOTAL_GB": "560"}, "1050 GB of SSD are needed"),
    ],
)
def test_each_quota_counts_only_its_machines_and_disks(
    config: dict[str, Any], quotas: dict[str, str], said: str
) -> None:
    wanted = {"workers": 40, **config}
    if said:
        assert said in refused(wanted, limits(**quotas))
    else:
        assert gke(wanted, limits(**quotas)).all("nodePool:NodePool")


def test_quotas_are_asked_with_a_users_paying_project() -> None:
    done = team()
    asked = [provider for token, _args, provider in done.asked if token == QUOTA]
    assert asked
    assert all("google-quotas" in provider for provider in asked), "Google refuses a user's login otherwise"
    provider = done.one("pulumi:providers:gcp", "google-quotas").inputs
    assert (provider["billingProject"], str(provider["userProjectOverride"]).lower()) == ("my-project", "true")


def test_quotas_that_nobody_may_see_are_said_to_be_unchecked() -> None:
    said = [text for severity, text in team().said if severity == "INFO"]
    (told,) = (text for text in said if text.startswith("not checked: "))
    assert "CPUS-ALL-REGIONS-per-project, CPUS-per-project-region, PREEMPTIBLE-CPUS-per-project-region, SSD" in told
    assert "roles/cloudquotas.viewer" in told


def test_workers_beyond_the_cpu_quota_are_refused() -> None:
    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": ["us-west1"], "details": [{"value": "12"}]}]}

    answers = {QUOTA: only_cpus(quota)}
    message = refused({"workers": 4, "maxWorkers": 40}, answers)
    assert "42 vCPUs" in message
    assert "12 vCPUs" in message
    assert gke({"workers": 8}, answers).all("nodePool:NodePool")

    def in_all_regions(args: Mapping[str, Any]) -> dict[str, Any]:
        value = "12" if args["quotaId"] == "CPUS-ALL-REGIONS-per-project" else "999"
        places = ["global"] if value == "12" else ["us-west1"]
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": places, "details": [{"value": value}]}]}

    assert "in all regions" in refused({"workers": 40}, {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": in_all_regions})


def test_largest_number_of_workers_still_fits_the_pods_range() -> None:
    workers = gke({"maxWorkers": 4080}).one("nodePool:NodePool", "workers").inputs
    assert workers["autoscaling"]["totalMaxNodeCount"] + 3 + 1 == 2 ** (24 - 14), "system nodes, and one in an upgrade"


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

    done = gke({"workers": 8}, {QUOTA: only_cpus(quota)})
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
