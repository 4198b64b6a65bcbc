"""GKE under a recorded cloud: what exists, how it is wired, what it may do, and what is refused in good time."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cloud_mocks import ROOT, Recording, Refused, labelled, listing, plain, run, stack_config
from google_cloud import ANSWERS, MACHINE_TYPES, computed, gke

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


# What exists


def test_the_example_stack_registers_the_resources_of_its_golden_list() -> None:
    golden = GOLDEN / "gke-team.txt"
    found = listing(team())
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_gke.py"


def test_the_example_stack_gives_no_warning_in_update_and_preview() -> None:
    assert team().warnings == []
    assert team(preview=True).warnings == []


def test_there_is_no_default_pool_but_one_for_the_system_and_one_for_workers() -> None:
    done = gke()
    assert done.one("cluster:Cluster").inputs["removeDefaultNodePool"] is True
    assert len(done.all("nodePool:NodePool")) == 2
    system = done.one("nodePool:NodePool", "system").inputs["nodeConfig"]
    workers = done.one("nodePool:NodePool", "workers").inputs["nodeConfig"]
    assert system["labels"] == {"future-kubernetes/role": "system"}
    assert "taints" not in system
    assert workers["labels"] == {"future-kubernetes/role": "worker"}
    assert workers["taints"] == [{"key": "future-kubernetes/worker", "value": "true", "effect": "NO_SCHEDULE"}]


def test_the_release_puts_workers_on_the_workers_pool_and_the_scheduler_on_the_other() -> None:
    values = gke().one("v3:Release").inputs["values"]
    assert values["worker"]["nodeSelector"] == {"future-kubernetes/role": "worker"}
    assert values["worker"]["tolerations"] == [
        {"key": "future-kubernetes/worker", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert values["scheduler"]["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert values["scheduler"]["homeStorageClass"] == "future-disks"


def test_a_fixed_pool_has_the_nodes_that_the_workers_need() -> None:
    workers = gke({"workers": 10}).one("nodePool:NodePool", "workers")
    assert workers.inputs["nodeCount"] == 3
    assert "autoscaling" not in workers.inputs
    assert workers.ignore_changes == []


def test_an_autoscaled_pool_goes_from_the_wanted_workers_to_the_most_and_its_count_is_left_alone() -> None:
    workers = gke({"workers": 10, "maxWorkers": 40}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 3
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 10
    assert "nodeCount" not in workers.inputs
    assert {"nodeCount", "initialNodeCount"} <= set(workers.ignore_changes)
    assert workers.inputs["ignoreNodeCountChanges"] is True


def test_workers_that_go_when_idle_take_their_nodes_with_them() -> None:
    workers = gke({"workers": 8, "idleMinutes": 30}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 0
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 2


def test_spot_pools_that_scale_look_in_every_zone_that_offers_the_machine_and_others_stay_in_one() -> None:
    spread = gke({"spot": True, "maxWorkers": 40, "machineType": "c3-standard-4"})
    workers = spread.one("nodePool:NodePool", "workers")
    assert workers.inputs["nodeConfig"]["spot"] is True
    assert workers.inputs["nodeLocations"] == ["us-west1-b", "us-west1-c"]
    assert workers.inputs["autoscaling"]["locationPolicy"] == "ANY"
    assert gke({"maxWorkers": 40}).one("nodePool:NodePool", "workers").inputs["nodeLocations"] == ["us-west1-a"]


def test_the_home_disk_stays_reachable_because_the_system_pool_has_one_zone() -> None:
    assert team().one("nodePool:NodePool", "system").inputs["nodeLocations"] == ["us-west1-a"]


def test_a_zone_makes_a_zonal_cluster_and_a_region_alone_a_regional_one() -> None:
    assert gke({"zone": "us-west1-b"}).one("cluster:Cluster").inputs["location"] == "us-west1-b"
    assert gke().one("cluster:Cluster").inputs["location"] == "us-west1"


def test_the_cluster_is_vpc_native_on_the_regular_channel_with_workload_identity_and_enforced_policies() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    assert cluster["networkingMode"] == "VPC_NATIVE"
    assert cluster["releaseChannel"] == {"channel": "REGULAR"}
    assert cluster["workloadIdentityConfig"] == {"workloadPool": "my-project.svc.id.goog"}
    assert cluster["datapathProvider"] == "ADVANCED_DATAPATH"
    assert cluster["deletionProtection"] is False


def test_filestore_is_there_only_when_shared_space_is_asked_for() -> None:
    assert gke().all("instance:Instance") == []
    shared = gke({"sharedGiB": 1024})
    assert shared.one("filestore/instance:Instance").inputs["fileShares"] == {"capacityGb": 1024, "name": "shared"}
    volume = shared.one("PersistentVolume").inputs["spec"]
    assert volume["csi"]["volumeAttributes"] == {"ip": "10.20.0.2", "volume": "shared"}
    assert (
        shared.one("v3:Release", "future-team").inputs["values"]["shared"]["storageClass"] == volume["storageClassName"]
    )


def test_a_load_balancer_is_there_only_when_a_host_is_asked_for() -> None:
    assert len(gke().all("v3:Release")) == 1
    public = gke({"host": "r.example.org"})
    assert public.one("v3:Release", "traefik").inputs["version"]
    release = next(entry for entry in public.all("v3:Release") if "traefik" not in entry.name).inputs["values"]
    assert release["ingress"]["className"] == "future-kubernetes"
    assert release["ingress"]["annotations"]["traefik.ingress.kubernetes.io/router.tls.certresolver"] == "letsencrypt"
    assert public.outputs["hostAddress"][0] == "198.51.100.9"


def test_a_given_image_needs_no_registry_and_a_given_network_none_of_its_own() -> None:
    done = gke({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "campus", "subnets": "lab"})
    assert done.all("artifactregistry/repository:Repository") == []
    for made in ("network:Network", "subnetwork:Subnetwork", "routerNat:RouterNat", "firewall:Firewall"):
        assert done.all(made) == []
    cluster = done.one("cluster:Cluster").inputs
    assert (cluster["network"], cluster["subnetwork"]) == ("campus", "lab")


# How it is wired


def test_every_resource_has_a_component_as_parent_and_the_provider_that_was_made_for_it() -> None:
    done = team()
    components = {resource.urn for resource in done.resources if not resource.custom}
    for resource in done.resources:
        if not resource.custom:
            continue
        assert resource.parent in components, resource.name
        wanted = {"gcp": "gke-team-google", "kubernetes": "gke-team-kubernetes"}.get(resource.type.split(":")[0])
        assert wanted is None or wanted in resource.provider, (
            f"{resource.name} uses {resource.provider or 'the default'}"
        )


def test_no_child_inherits_options_that_were_meant_for_its_parent() -> None:
    assert not any(resource.protect for resource in team().resources)


def test_the_kubernetes_provider_knows_its_cluster_by_more_than_the_kubeconfig() -> None:
    provider = gke().one("pulumi:providers:kubernetes")
    assert provider.inputs["clusterIdentifier"].startswith("projects/my-project/locations/us-west1/clusters/")


def test_the_image_waits_for_no_cluster_and_nothing_but_the_release_waits_for_the_image() -> None:
    done = team()
    image = done.one("docker-build:index:Image")
    assert not done.goes_before(image, done.one("container/cluster:Cluster"))
    waiting = [resource for resource in done.resources if done.goes_before(resource, image)]
    assert [resource.type for resource in waiting] == ["kubernetes:helm.sh/v3:Release"]


def test_destroy_takes_what_kubernetes_made_before_nodes_nodes_before_the_cluster_and_that_before_the_network() -> None:
    done = gke({"host": "r.example.org", "sharedGiB": 1024})
    network = done.one("network:Network")
    subnet = done.one("subnetwork:Subnetwork")
    cluster = done.one("container/cluster:Cluster")
    pools = done.all("nodePool:NodePool")
    wait = done.one("Leftovers")
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


def test_a_changed_machine_type_or_spot_makes_the_new_pool_before_the_old_one_goes() -> None:
    for pool in gke().all("nodePool:NodePool"):
        assert "nodeConfig.machineType" in pool.replace_on_changes
        assert not pool.delete_before_replace
        assert "name" not in pool.inputs, "two pools of one name cannot stand side by side"
    assert "nodeConfig.spot" in gke().one("nodePool:NodePool", "workers").replace_on_changes


@pytest.mark.parametrize("most", [40, 80])
def test_more_workers_resize_the_pool_and_the_worker_deployment_and_touch_nothing_else(most: int) -> None:
    before = gke({"workers": 4, "maxWorkers": most if most > 40 else 4})
    after = gke({"workers": 40, "maxWorkers": most})
    changed = {
        resource.name: {
            key for key in {*resource.inputs, *old.inputs} if resource.inputs.get(key) != old.inputs.get(key)
        }
        for resource, old in zip(
            sorted(after.resources, key=lambda entry: entry.urn),
            sorted(before.resources, key=lambda entry: entry.urn),
            strict=True,
        )
        if resource.inputs != old.inputs
    }
    pool = "nodeCount" if most == 40 else "autoscaling"
    ignored = {"initialNodeCount"} if most > 40 else set()
    assert {name: keys - ignored for name, keys in changed.items()} == {
        "future-team-workers": {pool},
        "future-team": {"values"},
    }
    values = [done.one("helm.sh/v3:Release").inputs["values"] for done in (before, after)]
    assert values[0]["scheduler"] == values[1]["scheduler"]
    assert values[0]["worker"]["resources"] == values[1]["worker"]["resources"]


# What it may do


def test_no_node_has_a_public_address_and_all_are_shielded() -> None:
    done = gke()
    assert done.one("cluster:Cluster").inputs["privateClusterConfig"]["enablePrivateNodes"] is True
    for pool in done.all("nodePool:NodePool"):
        config = pool.inputs["nodeConfig"]
        assert pool.inputs["networkConfig"]["enablePrivateNodes"] is True
        assert config["shieldedInstanceConfig"] == {"enableSecureBoot": True, "enableIntegrityMonitoring": True}
        assert config["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}
        assert pool.inputs["management"] == {"autoRepair": True, "autoUpgrade": True}


def test_nodes_may_write_logs_and_metrics_and_pull_from_the_stacks_own_repository_alone() -> None:
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


def test_an_open_control_plane_is_warned_of_and_a_stated_one_is_not() -> None:
    silent = gke({"authorizedNetworks": ""})
    assert "masterAuthorizedNetworksConfig" not in silent.one("cluster:Cluster").inputs
    assert len(silent.warnings) == 1
    assert "pulumi config set authorizedNetworks" in silent.warnings[0]
    assert len(gke({"authorizedNetworks": ""}, preview=True).warnings) == 1
    stated = gke({"authorizedNetworks": "0.0.0.0/0"})
    assert stated.warnings == []


def test_the_whole_world_is_let_in_nowhere_unless_asked() -> None:
    for done in (team(), gke({"authorizedNetworks": ""}), gke({"host": "r.example.org", "sharedGiB": 1024})):
        for resource in done.resources:
            assert "0.0.0.0/0" not in json.dumps(resource.inputs), resource.name
    asked = gke({"authorizedNetworks": "0.0.0.0/0"}).one("cluster:Cluster").inputs
    assert asked["masterAuthorizedNetworksConfig"]["cidrBlocks"][0]["cidrBlock"] == "0.0.0.0/0"


def test_the_only_way_in_that_the_firewall_opens_is_ssh_through_identity_aware_proxy() -> None:
    rules = [rule.inputs for rule in gke().all("firewall:Firewall")]
    assert [(rule["sourceRanges"], rule["allows"]) for rule in rules] == [
        (["35.235.240.0/20"], [{"protocol": "tcp", "ports": ["22"]}])
    ]


def test_kubeconfig_and_registry_password_are_secrets_and_hold_no_lasting_credential() -> None:
    done = gke()
    assert "kubeconfig" in done.one("pulumi:providers:kubernetes").secrets
    assert "kubeconfig" in done.one("Leftovers").secrets
    text, secret = done.outputs["kubeconfig"]
    assert secret
    user = json.loads(text)["users"][0]["user"]
    assert list(user) == ["exec"]
    assert user["exec"]["command"] == "gke-gcloud-auth-plugin"
    registry = done.one("docker-build:index:Image").sent["registries"]
    assert "short-lived-token" in json.dumps(plain(registry))
    for resource in done.resources:
        unmarked = json.dumps(resource.sent, default=str) if resource.type != "docker-build:index:Image" else ""
        assert "short-lived-token" not in unmarked, resource.name
    assert "4dabf18193072939515e22adb298388d" in json.dumps(registry)


def test_every_resource_that_takes_labels_carries_the_stacks_and_the_users() -> None:
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


def test_old_images_are_deleted_and_recent_ones_kept() -> None:
    policies = gke().one("repository:Repository").inputs["cleanupPolicies"]
    assert {policy["action"] for policy in policies} == {"KEEP", "DELETE"}


# What is refused, and what is said


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
        ({"workerMemoryGiB": 14}, "it fits on: e2-highmem-8\n"),
        ({"schedulerMemoryGiB": 9}, "pulumi config set systemMachineType"),
        ({"sharedGiB": 100}, "pulumi config set sharedGiB 1024"),
        ({"network": "campus"}, "pulumi config set subnets"),
        ({"workers": 10, "maxWorkers": 4}, "at least workers, which is 10"),
    ],
)
def test_what_google_cannot_do_is_refused_before_anything_is_made_with_what_would_do(
    config: dict[str, Any], said: str
) -> None:
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
def test_missing_credentials_rights_and_apis_are_named_with_their_remedy(reason: str, fix: str) -> None:
    def refuse(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    message = refused({}, {"gcp:compute/getZones:getZones": refuse})
    assert fix in message
    assert reason in message


def test_a_missing_exec_plugin_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    message = refused({}, {"no-run-before": lambda _args: {}})
    assert "gcloud components install gke-gcloud-auth-plugin" in message


def test_more_cpus_than_the_projects_quota_are_refused() -> None:
    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "dimensionsInfos": [{"applicableLocations": ["us-west1"], "details": [{"value": "12"}]}]}

    answers = {"gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": quota}
    message = refused({"workers": 40}, answers)
    assert "42 vCPUs" in message
    assert "12 vCPUs" in message
    assert gke({"workers": 8}, answers).all("nodePool:NodePool")


def test_names_stay_within_what_google_takes_whatever_the_stack_is_called() -> None:
    done = run({**stack_config("gke-team")}, ANSWERS, computed, stack_name="a-team-with-a-very-long-name0")
    drawn = len("-0a1b2c3")
    limits = {"container/cluster:Cluster": 40, "nodePool:NodePool": 40}
    for resource in done.resources:
        if resource.type.startswith("gcp:"):
            limit = next((most for type_, most in limits.items() if resource.type.endswith(type_)), 63)
            assert len(resource.name) + drawn <= limit or "Member" in resource.type or "Account" in resource.type
    assert 6 <= len(done.one("account:Account").inputs["accountId"]) <= 30
    assert len(done.one("repository:Repository").inputs["repositoryId"]) <= 63


def test_names_that_pulumi_does_not_draw_differ_between_two_stacks_of_one_name() -> None:
    def drawn_otherwise(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**computed(type_, name, inputs), "name": f"{name}-fedcba9"}

    one, two = team(), run(stack_config("gke-team"), ANSWERS, drawn_otherwise, stack_name="gke-team")
    for type_, key in (("account:Account", "accountId"), ("repository:Repository", "repositoryId")):
        assert one.one(type_).inputs[key] != two.one(type_).inputs[key]


# What is told


def test_the_outputs_say_how_to_get_in_and_what_it_costs_is_unknown_rather_than_invented() -> None:
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


def test_the_machine_is_asked_of_google_and_not_taken_from_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [args for token, args, provider in team().asked if token.startswith("gcp:compute/getMachineTypes")]
    assert asked
    assert all("e2-standard-4" in args["filter"] for args in asked)
    monkeypatch.setitem(MACHINE_TYPES, "e2-standard-4", (2, 8192, "X86_64", False, MACHINE_TYPES["e2-standard-4"][4]))
    smaller = gke({"workers": 10}, {"unused": lambda _args: {}})
    assert smaller.one("nodePool:NodePool", "workers").inputs["nodeCount"] == 5


def test_only_googles_sdk_is_imported() -> None:
    script = (
        "import sys, shutil; sys.path[:0] = ['tests/unit', '.']; shutil.which = lambda name: name\n"
        "from google_cloud import gke\n"
        "gke({'host': 'r.example.org', 'sharedGiB': 1024})\n"
        "print(sorted(name for name in sys.modules if name in ('pulumi_aws', 'pulumi_gcp', 'components.eks')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['pulumi_gcp']"


def test_what_is_sent_to_compute_engine_by_token_is_what_googles_sdk_would_take() -> None:
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
