"""GKE under mocks: node pools and the identity of their nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.clouds.allocatable import Allocatable, Machine
from components.clouds.google import preflight, rest
from components.clouds.google.allocatable import (
    SYSTEM_DISK_GIB,
    boot_disk_type,
    disk_for_pods,
    gke_allocatable,
    worker_disk_gib,
)
from components.clouds.google.rest import RestError
from components.clouds.managed import SCHEDULER_DISK_GIB, WORKER_DISK_GIB
from tests.unit.cloud_mocks import Recorded, Recording
from tests.unit.google_cloud import gke, kubernetes_engine, refused, team

pytestmark = pytest.mark.usefixtures("installed_tools")


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


@pytest.mark.parametrize("config", [{"workers": 10}, {"workers": 10, "zone": "us-west1-b"}, {"maxWorkers": 40}])
def test_autoscaling_is_on_from_the_first_pool_of_any_stack(config: dict[str, Any]) -> None:
    """Switched on later, it would restart a zonal control plane."""
    system = gke(config).one("nodePool:NodePool", "system").inputs
    assert system["autoscaling"] == {"totalMinNodeCount": 1, "totalMaxNodeCount": 3}


def test_autoscaled_pool_ranges_from_zero_to_max_workers() -> None:
    workers = gke({"workers": 10, "maxWorkers": 40}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 0
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 10
    assert "nodeCount" not in workers.inputs
    assert {"nodeCount", "initialNodeCount"} <= set(workers.ignore_changes)
    assert workers.inputs["ignoreNodeCountChanges"] is True


@pytest.mark.parametrize("config", [{"spot": True}, {"spot": "fallback"}, {"maxWorkers": 40}])
def test_autoscaled_pools_start_at_zero_in_each_zone(config: dict[str, Any]) -> None:
    pools = [pool.inputs for pool in gke({"workers": 10, **config}).all("nodePool:NodePool")]
    workers = [pool for pool in pools if pool["nodeConfig"].get("taints")]
    assert len(workers) == (2 if config.get("spot") == "fallback" else 1)
    for pool in workers:
        assert pool["initialNodeCount"] == 0, "a zone without machines would fail the whole update"
        assert pool["autoscaling"]["totalMinNodeCount"] == 0
        assert "nodeCount" not in pool


@pytest.mark.parametrize(
    ("key", "value"), [("idleMinutes", 30), ("ttlHours", 30), ("workHours", "Mon-Fri 08:00-18:00 UTC")]
)
def test_nodes_scale_to_zero_with_their_workers(key: str, value: Any) -> None:
    workers = gke({"workers": 8, key: value}).one("nodePool:NodePool", "workers")
    assert workers.inputs["autoscaling"]["totalMinNodeCount"] == 0
    assert workers.inputs["autoscaling"]["totalMaxNodeCount"] == 2


def test_only_spot_pools_span_zones() -> None:
    spread = gke({"spot": True, "maxWorkers": 40, "machineType": "c3-standard-4"})
    workers = spread.one("nodePool:NodePool", "workers")
    assert workers.inputs["nodeConfig"]["spot"] is True
    assert not spread.one("nodePool:NodePool", "system").inputs["nodeConfig"].get("spot"), "the R session is there"
    assert workers.inputs["nodeLocations"] == ["us-west1-b", "us-west1-c"]
    assert workers.inputs["autoscaling"]["locationPolicy"] == "ANY"
    assert gke({"maxWorkers": 40}).one("nodePool:NodePool", "workers").inputs["nodeLocations"] == ["us-west1-a"]
    fixed = gke({"workers": 10}).one("nodePool:NodePool", "workers").inputs
    assert (fixed["nodeLocations"], fixed["nodeCount"]) == (["us-west1-a"], 3), "the count is each zone's"


def test_fallback_adds_a_pool_on_demand_like_the_spot_pool() -> None:
    done = gke({"spot": "fallback", "workers": 10, "machineType": "c3-standard-4"})
    spot, other = (done.one("nodePool:NodePool", part) for part in ("workers", "on-demand"))
    assert (spot.inputs["nodeConfig"]["spot"], other.inputs["nodeConfig"]["spot"]) == (True, False)
    same = {**spot.inputs, "nodeConfig": {**spot.inputs["nodeConfig"], "spot": False}}
    assert other.inputs == same, "a worker must fit on either, and the autoscaler compare only prices"
    assert other.inputs["nodeLocations"] == ["us-west1-b", "us-west1-c"]
    assert other.inputs["autoscaling"] == {"totalMinNodeCount": 0, "totalMaxNodeCount": 3, "locationPolicy": "ANY"}
    assert done.outputs["nodes"][0].startswith("3 x c3-standard-4, 4 workers each")
    assert "spot, else on demand, autoscaled 0 to 3" in done.outputs["nodes"][0]
    assert not gke({"spot": True}).all("nodePool:NodePool", "on-demand")


TYPES = {"spot": "fallback", "workers": 10, "maxWorkers": 40, "otherMachineTypes": "n4-standard-4,c3-standard-4"}


def workers_pools(done: Recording) -> dict[str, Recorded]:
    """The pools of workers, by the end of their name."""
    return {
        pool.name.removeprefix("future-team-"): pool
        for pool in done.all("nodePool:NodePool")
        if pool.name != "future-team-system"
    }


def test_each_further_machine_type_has_its_own_spot_pool() -> None:
    pools = workers_pools(gke(TYPES))
    facts = {
        name: (pool.inputs["nodeConfig"]["machineType"], pool.inputs["nodeConfig"]["spot"])
        for name, pool in pools.items()
    }
    assert facts == {
        "workers": ("e2-standard-4", True),
        "n4-standard-4": ("n4-standard-4", True),
        "c3-standard-4": ("c3-standard-4", True),
        "on-demand": ("e2-standard-4", False),
    }
    for pool in pools.values():
        config = pool.inputs["nodeConfig"]
        assert pool.inputs["autoscaling"] == {
            "totalMinNodeCount": 0,
            "totalMaxNodeCount": 10,
            "locationPolicy": "ANY",
        }, "each may be the only one with machines"
        assert pool.inputs["initialNodeCount"] == 0
        assert config["labels"] == {"future-kubernetes/role": "worker"}
        assert [taint["key"] for taint in config["taints"]] == ["future-kubernetes/worker"]
        assert config["resourceLabels"]["stack"] == "team"


def test_pool_of_a_type_has_its_zones_and_disk() -> None:
    pools = workers_pools(gke(TYPES))
    assert pools["c3-standard-4"].inputs["nodeLocations"] == ["us-west1-b", "us-west1-c"]
    assert pools["n4-standard-4"].inputs["nodeLocations"] == ["us-west1-a", "us-west1-b", "us-west1-c"]
    disks = {name: pool.inputs["nodeConfig"]["diskType"] for name, pool in pools.items()}
    assert disks == {
        "workers": "pd-balanced",
        "n4-standard-4": "hyperdisk-balanced",
        "c3-standard-4": "pd-balanced",
        "on-demand": "pd-balanced",
    }
    zonal = workers_pools(gke({**TYPES, "zone": "us-west1-b"}))
    assert {tuple(pool.inputs["nodeLocations"]) for pool in zonal.values()} == {("us-west1-b",)}


def test_type_that_leaves_the_list_takes_only_its_pool() -> None:
    def inputs(types: str) -> dict[str, Any]:
        done = gke({**TYPES, "otherMachineTypes": types})
        return {pool.urn: pool.inputs for pool in done.all("nodePool:NodePool")}

    both, one = inputs("n4-standard-4,c3-standard-4"), inputs("c3-standard-4")
    assert [urn.rsplit("::", 1)[-1] for urn in both.keys() - one.keys()] == ["future-team-n4-standard-4"]
    assert {urn: both[urn] for urn in one} == one, "another pool would be changed or replaced"


def test_type_named_twice_or_as_machine_type_has_one_pool() -> None:
    done = gke({**TYPES, "otherMachineTypes": "e2-standard-4,n4-standard-4,n4-standard-4"})
    assert workers_pools(done).keys() == {"workers", "n4-standard-4", "on-demand"}
    assert "or n4-standard-4, spot, else on demand, autoscaled 0 to 10" in done.outputs["nodes"][0]


def test_workers_are_sized_for_the_smallest_of_all_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal vCPUs and memory give equal rooms, but for what GKE reserves of one type only."""
    known = gke_allocatable

    def less_on_n4(machine: Machine, **more: Any) -> Allocatable:
        found = known(machine, **more)
        return replace(found, memory_mib=found.memory_mib - 400) if machine.name.startswith("n4-") else found

    def memory(done: Recording) -> int:
        requests = done.one("v3:Release").inputs["values"]["worker"]["resources"]["requests"]
        return int(requests["memory"].removesuffix("Mi"))

    before = memory(gke(TYPES))
    monkeypatch.setattr(preflight, "gke_allocatable", less_on_n4)
    assert memory(gke(TYPES, {"never-called": lambda _args: {}})) == before - 100, "four workers a node"


def test_every_pool_of_workers_stands_until_the_cluster_is_empty() -> None:
    done = gke(TYPES)
    guard = next(entry for entry in done.resources if entry.name.endswith("destroy-guard"))
    release = done.one("v3:Release")
    for pool in workers_pools(done).values():
        assert done.goes_before(guard, pool), "its nodes unmount what Kubernetes deletes"
        assert done.goes_before(release, pool)


def test_machines_without_persistent_disks_boot_from_hyperdisk() -> None:
    done = gke({"machineType": "n4-standard-4"})
    assert done.one("nodePool:NodePool", "workers").inputs["nodeConfig"]["diskType"] == "hyperdisk-balanced"
    assert done.one("nodePool:NodePool", "system").inputs["nodeConfig"]["diskType"] == "pd-balanced"


@pytest.mark.parametrize("family", ["c4", "c4d", "h4d", "m4", "n4", "n4d", "x4"])
def test_families_without_persistent_disks_are_those_that_google_names(family: str) -> None:
    assert boot_disk_type(f"{family}-standard-4") == "hyperdisk-balanced"
    assert boot_disk_type(f"{family.rstrip('d').replace('4', '2')}-standard-4") == "pd-balanced"


def test_boot_disk_grows_with_the_workers_of_a_node() -> None:
    def sizes(config: dict[str, Any]) -> list[int]:
        done = gke(config)
        return [
            done.one("nodePool:NodePool", part).inputs["nodeConfig"]["diskSizeGb"] for part in ("system", "workers")
        ]

    assert sizes({}) == [50, 50], "four workers"
    many = {"workerCpu": 0.2, "workerMemoryGiB": 0.5}
    assert "16 workers each" in gke(many).outputs["nodes"][0]
    assert sizes(many) == [50, 18 + 16 * 8]


@given(st.integers(1, 250))
def test_disk_has_room_for_requests_of_all_a_nodes_workers(workers: int) -> None:
    assert disk_for_pods(worker_disk_gib(workers)) >= workers * WORKER_DISK_GIB
    assert disk_for_pods(SYSTEM_DISK_GIB) >= SCHEDULER_DISK_GIB


def test_disk_for_pods_is_less_than_google_shows() -> None:
    """On https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes, of a node with 100 GiB."""
    assert 0.95 * 47060071478 / 2**30 < disk_for_pods(100) <= 47060071478 / 2**30
    assert disk_for_pods(1000) == pytest.approx(0.9 * 994 - 100), "GKE reserves at most 100 GiB"
    assert disk_for_pods(20) == pytest.approx(0.9 * 14 - 10), "GKE reserves at most half of a small disk"


def test_node_upgrade_adds_a_node_before_draining_one() -> None:
    for pool in gke().all("nodePool:NodePool"):
        assert pool.inputs["upgradeSettings"] == {"maxSurge": 1, "maxUnavailable": 0}, "workers would lose their place"


def test_system_pool_stays_in_the_zone_of_the_home_disk() -> None:
    assert team().one("nodePool:NodePool", "system").inputs["nodeLocations"] == ["us-west1-a"]


def test_system_node_takes_the_first_zone_offering_its_machine() -> None:
    for pool in gke({"systemMachineType": "c3-standard-4"}).all("nodePool:NodePool"):
        assert pool.inputs["nodeLocations"] == ["us-west1-b"]


def test_no_daemon_set_runs_that_sizing_does_not_count() -> None:
    monitoring = gke().one("cluster:Cluster").inputs["monitoringConfig"]
    assert monitoring["managedPrometheus"] == {"enabled": False}


def test_nodes_are_private_and_shielded() -> None:
    done = gke()
    cluster = done.one("cluster:Cluster").inputs
    assert cluster["privateClusterConfig"]["enablePrivateNodes"] is True
    assert "enablePrivateEndpoint" not in cluster["privateClusterConfig"], "authorizedNetworks would reach nothing"
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


def streamed(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any] | None = None) -> Recording:
    """Runs a stack in a project that has the API for image streaming."""
    monkeypatch.setattr(rest, "fetch", kubernetes_engine(streaming=True))
    return gke({"spot": "fallback", "maxWorkers": 40, **(config or {})}, {"never-called": lambda _args: {}})


def streaming_of(done: Recording) -> dict[str, bool | None]:
    """By pool, true if its nodes stream images; None where it is not set."""
    found = {}
    for pool in done.all("nodePool:NodePool"):
        config = pool.inputs["nodeConfig"].get("gcfsConfig")
        found[pool.name.rsplit("team-")[-1]] = config["enabled"] if config else None
    return found


def test_worker_nodes_stream_the_image_where_the_api_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    done = streamed(monkeypatch)
    assert streaming_of(done) == {"system": None, "workers": True, "on-demand": True}
    (role,) = (made for made in done.all("IAMMember") if "nodes-streaming" in made.name)
    assert role.inputs["role"] == "roles/serviceusage.serviceUsageConsumer"
    assert role.inputs["member"].startswith(f"serviceAccount:{done.one('account:Account').inputs['accountId']}@")
    for pool in done.all("nodePool:NodePool"):
        assert done.goes_before(pool, role), "its first node would download the image as a whole"


def test_requests_leave_what_gke_reserves_for_image_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(done: Recording) -> int:
        requests = done.one("v3:Release").inputs["values"]["worker"]["resources"]["requests"]
        return int(requests["memory"].removesuffix("Mi"))

    less = memory(gke({"spot": "fallback", "maxWorkers": 40})) - memory(streamed(monkeypatch))
    # 10 % of 4 GiB, 8 % of 4 and 4 % of 8, for four workers.
    assert less == pytest.approx((0.4 + 0.32 + 0.32) * 1024 / 4, abs=2)


@pytest.mark.parametrize(
    "config", [{"image": "ghcr.io/o/i@sha256:" + "b" * 64}, {"network": "campus", "subnets": "nodes"}]
)
def test_foreign_image_or_network_is_not_streamed(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    done = streamed(monkeypatch, config)
    assert set(streaming_of(done).values()) == {None, False}
    assert not [made for made in done.all("IAMMember") if "nodes-streaming" in made.name]


def test_project_without_the_api_streams_nothing() -> None:
    assert set(streaming_of(gke()).values()) == {None, False}


def test_unknown_state_of_the_streaming_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, project: str, token: str) -> dict[str, Any]:
        if "//serviceusage." in url:
            raise RestError("401 Request had invalid authentication credentials")
        return kubernetes_engine()(url, project, token)

    monkeypatch.setattr(rest, "fetch", fetch)
    text = refused({})
    assert "whether project my-project has the API for image streaming" in text
    assert "gcloud auth application-default login" in text


def test_temporary_default_pool_takes_no_ssd_quota_and_one_zone() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    default = cluster["nodeConfig"]
    assert (default["diskType"], default["diskSizeGb"]) == ("pd-standard", 20), "100 GB of SSD for each node by default"
    assert cluster["nodeLocations"] == ["us-west1-a"], "else one node in each zone of the region"
    zonal = gke({"zone": "us-west1-b"}).one("cluster:Cluster").inputs
    assert "nodeLocations" not in zonal, "GKE refuses a zonal cluster's own zone"


@pytest.mark.parametrize(("spot", "seconds"), [(True, 15), ("fallback", 15), (False, None)])
def test_workers_on_spot_end_within_the_clouds_notice(spot: bool | str, seconds: int | None) -> None:
    values = gke({"spot": spot, "maxWorkers": 40}).one("v3:Release").inputs["values"]
    assert values["worker"].get("gracePeriodSeconds") == seconds
    assert "gracePeriodSeconds" not in values["scheduler"], "the scheduler is never on spot"


def test_users_own_grace_period_wins() -> None:
    config = {"spot": True, "maxWorkers": 40, "chartValues": {"worker": {"gracePeriodSeconds": 5}}}
    assert gke(config).one("v3:Release").inputs["values"]["worker"]["gracePeriodSeconds"] == 5
