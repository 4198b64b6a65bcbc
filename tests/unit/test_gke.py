"""GKE under mocks: resources, dependencies, permissions, refusals and outputs."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloud_mocks import Recording, Refused, labelled, run, stack_config
from tests.unit.google_cloud import ANSWERS, MACHINE_TYPES, computed, gke

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _exec_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


@functools.cache
def team(*, preview: bool = False) -> Recording:
    return run(stack_config("gke-team"), ANSWERS, computed, stack_name="gke-team", preview=preview)


def refused(config: Mapping[str, Any], answers: Mapping[str, Any] | None = None) -> str:
    """The message with which these settings are refused; nothing may have been made."""
    with pytest.raises(Refused) as caught:
        gke(config, answers)
    assert caught.value.nothing_was_made, [resource.urn for resource in caught.value.recording.resources]
    assert type(caught.value.error).__mro__[1].__name__ == "RunError", "printed with a stack trace"
    return str(caught.value)


# Resources


def test_cluster_has_a_system_pool_and_a_tainted_worker_pool() -> None:
    done = gke()
    assert done.one("cluster:Cluster").inputs["removeDefaultNodePool"] is True
    assert len(done.all("nodePool:NodePool")) == 2
    system = done.one("nodePool:NodePool", "system").inputs["nodeConfig"]
    workers = done.one("nodePool:NodePool", "workers").inputs["nodeConfig"]
    assert system["labels"] == {"future-kubernetes/role": "system"}
    assert "taints" not in system
    assert workers["labels"] == {"future-kubernetes/role": "worker"}
    assert workers["taints"] == [{"key": "future-kubernetes/worker", "value": "true", "effect": "NO_SCHEDULE"}]


def test_release_places_workers_and_scheduler_on_their_pools() -> None:
    values = gke().one("v3:Release").inputs["values"]
    assert values["worker"]["nodeSelector"] == {"future-kubernetes/role": "worker"}
    assert values["worker"]["tolerations"] == [
        {"key": "future-kubernetes/worker", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert values["scheduler"]["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert values["scheduler"]["homeStorageClass"] == "future-disks"


def test_fixed_pool_has_the_needed_nodes() -> None:
    workers = gke({"workers": 10}).one("nodePool:NodePool", "workers")
    assert workers.inputs["nodeCount"] == 3
    assert "autoscaling" not in workers.inputs
    assert workers.ignore_changes == []


def test_autoscaled_pool_ranges_from_workers_to_max_workers() -> None:
    workers = gke({"workers": 10, "maxWorkers": 40}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 3
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 10
    assert "nodeCount" not in workers.inputs
    assert {"nodeCount", "initialNodeCount"} <= set(workers.ignore_changes)
    assert workers.inputs["ignoreNodeCountChanges"] is True


def test_autoscaled_pool_starts_with_no_more_nodes_than_needed() -> None:
    workers = gke({"workers": 10, "maxWorkers": 40, "spot": True}).one("nodePool:NodePool", "workers").inputs
    assert len(workers["nodeLocations"]) == 3
    assert 1 <= workers["initialNodeCount"] * 3 <= 3, "it counts the nodes of each zone"


@pytest.mark.parametrize("key", ["idleMinutes", "ttlHours"])
def test_nodes_scale_to_zero_with_their_workers(key: str) -> None:
    workers = gke({"workers": 8, key: 30}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 0
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 2


def test_only_autoscaled_spot_pools_span_zones() -> None:
    spread = gke({"spot": True, "maxWorkers": 40, "machineType": "c3-standard-4"})
    workers = spread.one("nodePool:NodePool", "workers")
    assert workers.inputs["nodeConfig"]["spot"] is True
    assert not spread.one("nodePool:NodePool", "system").inputs["nodeConfig"].get("spot"), "the R session is there"
    assert workers.inputs["nodeLocations"] == ["us-west1-b", "us-west1-c"]
    assert workers.inputs["autoscaling"]["locationPolicy"] == "ANY"
    assert gke({"maxWorkers": 40}).one("nodePool:NodePool", "workers").inputs["nodeLocations"] == ["us-west1-a"]
    fixed = gke({"spot": True, "workers": 10}).one("nodePool:NodePool", "workers").inputs
    assert (fixed["nodeLocations"], fixed["nodeCount"]) == (["us-west1-a"], 3), "the count is each zone's"


def test_machines_without_persistent_disks_boot_from_hyperdisk() -> None:
    done = gke({"machineType": "n4-standard-4"})
    assert done.one("nodePool:NodePool", "workers").inputs["nodeConfig"]["diskType"] == "hyperdisk-balanced"
    assert done.one("nodePool:NodePool", "system").inputs["nodeConfig"]["diskType"] == "pd-balanced"


def test_boot_disks_have_50_gib() -> None:
    sizes = [pool.inputs["nodeConfig"]["diskSizeGb"] for pool in gke().all("nodePool:NodePool")]
    assert sizes == [50, 50]


def test_node_upgrade_adds_a_node_before_draining_one() -> None:
    for pool in gke().all("nodePool:NodePool"):
        assert pool.inputs["upgradeSettings"] == {"maxSurge": 1, "maxUnavailable": 0}, "workers would lose their place"


def test_system_pool_stays_in_the_zone_of_the_home_disk() -> None:
    assert team().one("nodePool:NodePool", "system").inputs["nodeLocations"] == ["us-west1-a"]


def test_system_node_takes_the_first_zone_offering_its_machine() -> None:
    for pool in gke({"systemMachineType": "c3-standard-4"}).all("nodePool:NodePool"):
        assert pool.inputs["nodeLocations"] == ["us-west1-b"]


def test_zone_creates_a_zonal_cluster_and_region_a_regional_one() -> None:
    zonal = gke({"zone": "us-west1-b"})
    assert zonal.one("cluster:Cluster").inputs["location"] == "us-west1-b"
    assert "--location us-west1-b " in zonal.outputs["kubeconfigCommand"][0]
    assert "--context gke_my-project_us-west1-b_" in zonal.outputs["portForward"][0]
    assert gke().one("cluster:Cluster").inputs["location"] == "us-west1"


def test_cluster_is_vpc_native_with_workload_identity_and_dataplane_v2() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    assert cluster["networkingMode"] == "VPC_NATIVE"
    assert cluster["releaseChannel"] == {"channel": "REGULAR"}
    assert cluster["workloadIdentityConfig"] == {"workloadPool": "my-project.svc.id.goog"}
    assert cluster["datapathProvider"] == "ADVANCED_DATAPATH"
    assert cluster["deletionProtection"] is False


def test_filestore_exists_only_with_shared_gib() -> None:
    assert gke().all("instance:Instance") == []
    shared = gke({"sharedGiB": 1024})
    assert shared.one("filestore/instance:Instance").inputs["fileShares"] == {"capacityGb": 1024, "name": "shared"}
    drivers = [done.one("cluster:Cluster").inputs["addonsConfig"] for done in (gke(), shared)]
    assert [driver["gcpFilestoreCsiDriverConfig"]["enabled"] for driver in drivers] == [False, True]
    instance = shared.one("filestore/instance:Instance")
    assert instance.inputs["location"] == "us-west1-a", "a basic instance is in a zone: the scheduler's"
    assert [entry["network"] for entry in instance.inputs["networks"]] == [shared.one("network:Network").name + "-id"]
    volume = shared.one("PersistentVolume").inputs["spec"]
    assert volume["persistentVolumeReclaimPolicy"] == "Retain", "the driver would delete what Pulumi manages"
    assert volume["accessModes"] == ["ReadWriteMany"]
    assert volume["csi"]["volumeHandle"] == f"modeInstance/us-west1-a/{instance.name}-0a1b2c3/shared"
    assert volume["csi"]["volumeAttributes"] == {"ip": "10.20.0.2", "volume": "shared"}
    assert (
        shared.one("v3:Release", "future-team").inputs["values"]["shared"]["storageClass"] == volume["storageClassName"]
    )


def test_load_balancer_exists_only_with_host() -> None:
    assert len(gke().all("v3:Release")) == 1
    public = gke({"host": "r.example.org"})
    assert public.one("v3:Release", "traefik").inputs["version"]
    release = next(entry for entry in public.all("v3:Release") if "traefik" not in entry.name).inputs["values"]
    assert release["ingress"]["className"] == "future-kubernetes"
    assert release["ingress"]["annotations"]["traefik.ingress.kubernetes.io/router.tls.certresolver"] == "letsencrypt"
    assert public.outputs["hostAddress"][0] == "198.51.100.9"


def test_given_image_and_network_create_neither() -> None:
    done = gke({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "campus", "subnets": "lab"})
    assert done.all("artifactregistry/repository:Repository") == []
    for made in ("network:Network", "subnetwork:Subnetwork", "routerNat:RouterNat", "firewall:Firewall"):
        assert done.all(made) == []
    cluster = done.one("cluster:Cluster").inputs
    assert (cluster["network"], cluster["subnetwork"]) == ("campus", "lab")
    assert not cluster["ipAllocationPolicy"], "GKE makes the ranges that a subnetwork of others lacks"


def test_new_network_has_the_clusters_secondary_ranges() -> None:
    done = gke()
    network, subnet = done.one("network:Network"), done.one("subnetwork:Subnetwork")
    assert network.inputs["autoCreateSubnetworks"] is False
    assert (subnet.inputs["network"], subnet.inputs["region"]) == (f"{network.name}-id", "us-west1")
    assert subnet.inputs["privateIpGoogleAccess"] is True, "pulling the image from Google would go through the NAT"
    cluster = done.one("cluster:Cluster").inputs
    assert (cluster["network"], cluster["subnetwork"]) == (f"{network.name}-id", f"{subnet.name}-id")
    ranges = {entry["rangeName"] for entry in subnet.inputs["secondaryIpRanges"]}
    assert set(cluster["ipAllocationPolicy"].values()) == ranges


def test_no_daemon_set_runs_that_sizing_does_not_count() -> None:
    monitoring = gke().one("cluster:Cluster").inputs["monitoringConfig"]
    assert monitoring["managedPrometheus"] == {"enabled": False}


# Dependencies


def test_destroy_deletes_releases_then_guard_then_nodes_then_network() -> None:
    done = gke({"host": "r.example.org", "sharedGiB": 1024})
    network = done.one("network:Network")
    subnet = done.one("subnetwork:Subnetwork")
    cluster = done.one("container/cluster:Cluster")
    pools = done.all("nodePool:NodePool")
    wait = done.one("DestroyGuard")
    claims = [*done.all("v3:Release"), *done.all("core/v1:Namespace"), *done.all("PersistentVolume")]
    assert len(claims) >= 5
    for claim in claims:
        assert done.goes_before(claim, wait), f"{claim.name} could outlive the wait for its disks and load balancers"
    for pool in pools:
        assert done.goes_before(wait, pool), "nodes could go while disks are still attached to them"
        assert done.goes_before(pool, cluster)
    assert done.goes_before(wait, done.one("routerNat:RouterNat"))
    assert done.goes_before(cluster, subnet)
    assert done.goes_before(subnet, network)
    for other in done.all("", ""):
        if other.type.startswith("gcp:compute/") and other is not network:
            assert done.goes_before(other, network), f"{other.name} would hold the network"


def test_nodes_reach_the_internet_through_cloud_nat() -> None:
    nat = gke().one("routerNat:RouterNat").inputs
    router = gke().one("router:Router")
    assert (nat["router"], nat["region"]) == (f"{router.name}-0a1b2c3", "us-west1")
    assert (router.inputs["network"], router.inputs["region"]) == ("future-team-network-id", "us-west1")
    assert nat["natIpAllocateOption"] == "AUTO_ONLY", "there is no address that it could be given"
    assert nat["sourceSubnetworkIpRangesToNat"] == "LIST_OF_SUBNETWORKS"
    assert nat["subnetworks"] == [{"name": "future-team-nodes-id", "sourceIpRangesToNats": ["ALL_IP_RANGES"]}]


def test_kubeconfig_gets_credentials_from_the_plugin() -> None:
    user = json.loads(gke().outputs["kubeconfig"][0])["users"][0]["user"]
    assert user["exec"]["provideClusterInfo"] is True, "the plugin refuses without"


# Permissions


def test_control_plane_accepts_no_legacy_authentication() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    assert cluster["masterAuthorizedNetworksConfig"]["gcpPublicCidrsAccessEnabled"] is False, "any customer of Google's"
    assert cluster["enableShieldedNodes"] is True
    assert cluster["enableLegacyAbac"] is False
    assert cluster["masterAuth"]["clientCertificateConfig"] == {"issueClientCertificate": False}
    for pool in gke().all("nodePool:NodePool"):
        assert pool.inputs["nodeConfig"]["metadata"]["disable-legacy-endpoints"] == "true"
        assert pool.inputs["nodeConfig"]["kubeletConfig"]["insecureKubeletReadonlyPortEnabled"] == "FALSE"


def test_nodes_are_private_and_shielded() -> None:
    done = gke()
    cluster = done.one("cluster:Cluster").inputs
    assert cluster["privateClusterConfig"]["enablePrivateNodes"] is True
    assert cluster["privateClusterConfig"]["enablePrivateEndpoint"] is False, "authorizedNetworks would reach nothing"
    shielded = cluster["nodeConfig"]["shieldedInstanceConfig"]
    assert shielded == {"enableSecureBoot": True, "enableIntegrityMonitoring": True}, "the default pool's, for a minute"
    for pool in done.all("nodePool:NodePool"):
        config = pool.inputs["nodeConfig"]
        assert pool.inputs["networkConfig"]["enablePrivateNodes"] is True
        assert config["shieldedInstanceConfig"] == {"enableSecureBoot": True, "enableIntegrityMonitoring": True}
        assert config["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}
        assert pool.inputs["management"] == {"autoRepair": True, "autoUpgrade": True}


def test_nodes_may_only_log_and_pull_the_stacks_image() -> None:
    done = gke()
    roles = [entry.inputs for entry in done.resources if "iam" in entry.type.lower() and "role" in entry.inputs]
    assert sorted(role["role"] for role in roles) == [
        "roles/artifactregistry.reader",
        "roles/container.defaultNodeServiceAccount",
    ]
    member = done.one("account:Account").inputs["accountId"]
    assert all(role["member"].startswith(f"serviceAccount:{member}@") for role in roles)
    pull = done.one("RepositoryIamMember").inputs
    assert pull["repository"] == done.one("repository:Repository").name + "-0a1b2c3"
    for pool in done.all("nodePool:NodePool"):
        assert pool.inputs["nodeConfig"]["serviceAccount"].startswith(member)
    assert done.one("cluster:Cluster").inputs["nodeConfig"]["serviceAccount"].startswith(member)


def test_firewall_opens_only_ssh_through_identity_aware_proxy() -> None:
    rules = [rule.inputs for rule in gke().all("firewall:Firewall")]
    assert [(rule["sourceRanges"], rule["allows"]) for rule in rules] == [
        (["35.235.240.0/20"], [{"protocol": "tcp", "ports": ["22"]}])
    ]


def test_every_labelable_resource_carries_the_stacks_and_users_labels() -> None:
    import pulumi_gcp

    done = gke({"labels": "team=statistics,course=243", "sharedGiB": 1024})
    wanted = {"app": "future-kubernetes", "stack": "team", "team": "statistics", "course": "243"}
    seen = 0
    for resource in done.resources:
        key = labelled(resource, {"gcp": pulumi_gcp}, ("labels", "resource_labels"))
        if key:
            sent = resource.inputs["labels" if key == "labels" else "resourceLabels"]
            assert {name: sent.get(name) for name in wanted} == wanted, resource.name
            seen += 1
    for pool in done.all("nodePool:NodePool"):
        assert wanted.items() <= pool.inputs["nodeConfig"]["resourceLabels"].items()
    disks = dict(pair.split("=") for pair in done.one("StorageClass").inputs["parameters"]["labels"].split(","))
    assert wanted.items() <= disks.items()
    assert json.loads(done.one("pulumi:providers:gcp").inputs["defaultLabels"]) == disks
    assert seen >= 3


def test_registry_deletes_old_images_and_keeps_recent_ones() -> None:
    policies = gke().one("repository:Repository").inputs["cleanupPolicies"]
    assert {policy["action"] for policy in policies} == {"KEEP", "DELETE"}


# Refusals


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"region": "us-nowhere1"}, "pulumi config set region|gcloud compute regions list"),
        ({"zone": "us-west1-z"}, "us-west1-a, us-west1-b, us-west1-c"),
        ({"machineType": "e2-standard-5"}, "e2-standard-2, e2-standard-4"),
        ({"machineType": "c3-standard-4", "zone": "us-west1-a"}, "zone us-west1-a does not offer"),
        ({"machineType": "t2a-standard-4"}, "x86-64"),
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


def test_names_of_a_long_stack_stay_within_googles_limits() -> None:
    done = run({**stack_config("gke-team")}, ANSWERS, computed, stack_name="a-team-with-a-very-long-name0")
    drawn = len("-0a1b2c3")
    limits = {"container/cluster:Cluster": 40, "nodePool:NodePool": 40}
    for resource in done.resources:
        if resource.type.startswith("gcp:"):
            limit = next((most for type_, most in limits.items() if resource.type.endswith(type_)), 63)
            assert len(resource.name) + drawn <= limit or "Member" in resource.type or "Account" in resource.type
    assert 6 <= len(done.one("account:Account").inputs["accountId"]) <= 30
    assert len(done.one("repository:Repository").inputs["repositoryId"]) <= 63


def test_names_not_generated_by_pulumi_differ_between_equal_stacks() -> None:
    def drawn_otherwise(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**computed(type_, name, inputs), "name": f"{name}-fedcba9"}

    one, two = team(), run(stack_config("gke-team"), ANSWERS, drawn_otherwise, stack_name="gke-team")
    for type_, key in (("account:Account", "accountId"), ("repository:Repository", "repositoryId")):
        assert one.one(type_).inputs[key] != two.one(type_).inputs[key]
    given = {"network": "campus", "subnets": "lab"}
    same = [gke(given, stack_name=name).one("account:Account").inputs["accountId"] for name in ("one", "one", "two")]
    assert same[0] == same[1], "a name that changes would replace what has it"
    assert same[0].rsplit("-", 1)[1] != same[2].rsplit("-", 1)[1]


def test_shared_core_machines_get_smaller_worker_requests() -> None:
    sizes = [
        gke({"machineType": name, "workers": 1}).one("v3:Release").inputs["values"]["worker"]["resources"]["requests"]
        for name in ("e2-medium", "e2-standard-2")
    ]
    assert int(sizes[0]["cpu"].removesuffix("m")) < int(sizes[1]["cpu"].removesuffix("m")) / 2


# Outputs


def test_outputs_give_the_commands_to_connect_and_an_unknown_cost() -> None:
    told = {name: value for name, (value, _secret) in team().outputs.items()}
    assert told["kubeconfigCommand"] == (
        "gcloud container clusters get-credentials future-gke-team-0a1b2c3 --location us-west1 --project my-project"
    )
    assert "--context gke_my-project_us-west1_future-gke-team-0a1b2c3" in told["portForward"]
    assert told["nodeShell"].startswith("gcloud compute ssh")
    assert "--tunnel-through-iap" in told["nodeShell"]
    assert told["nodes"].startswith("3 x e2-standard-4, 4 workers each")
    assert "spot, autoscaled 0 to 10" in told["nodes"]
    assert told["hourlyCost"] == "unknown"


def test_machine_size_comes_from_google(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [args for token, args, provider in team().asked if token.startswith("gcp:compute/getMachineTypes")]
    assert asked
    assert all("e2-standard-4" in args["filter"] for args in asked)
    monkeypatch.setitem(MACHINE_TYPES, "e2-standard-4", (2, 8192, "X86_64", False, MACHINE_TYPES["e2-standard-4"][4]))
    smaller = gke({"workers": 10}, {"unused": lambda _args: {}})
    assert smaller.one("nodePool:NodePool", "workers").inputs["nodeCount"] == 5


def test_compute_inputs_are_those_of_googles_sdk() -> None:
    import inspect

    import pulumi_gcp

    for resource in gke().resources:
        if not resource.type.startswith("gcp:compute/"):
            continue
        args = getattr(pulumi_gcp.compute, f"{resource.type.split(':')[-1]}Args")
        known = set(inspect.signature(args.__init__).parameters)
        sent = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower() for key in resource.inputs}
        assert sent <= known, resource.type
        required = {
            name
            for name, parameter in inspect.signature(args.__init__).parameters.items()
            if parameter.default is inspect.Parameter.empty and name != "__self__"
        }
        assert required <= sent, resource.type
