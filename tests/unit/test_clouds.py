"""Promises of a stack on either cloud, tested on both."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import aws_cloud
from tests.unit.both_clouds import EKS, Cloud, cloud, own_release
from tests.unit.cloud_mocks import DRAWN, ROOT, Recording, is_secret, listing, plain

__all__ = ["cloud"]


GOLDEN = Path(__file__).parent / "golden"


def test_example_stack_registers_its_golden_list(cloud: Cloud) -> None:
    golden = GOLDEN / f"{cloud.name}-team.txt"
    found = listing(cloud.team())
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_clouds.py"


def test_example_stack_warns_of_nothing(cloud: Cloud) -> None:
    assert cloud.team().warnings == []
    assert cloud.team(preview=True).warnings == []


def test_home_disk_is_deleted_with_its_claim(cloud: Cloud) -> None:
    disks = cloud.run().one("StorageClass").inputs
    assert disks["reclaimPolicy"] == "Delete", "destroy would leave the disk, billed"
    assert disks["volumeBindingMode"] == "WaitForFirstConsumer", "the disk could be in a zone without a system node"
    assert own_release(cloud.run()).inputs["values"]["scheduler"]["homeStorageClass"] == disks["metadata"]["name"]


def test_second_run_asks_for_no_change(cloud: Cloud) -> None:
    """The same settings give the same resources, inputs and options, whatever the hour and the order of answers."""
    config = {"host": "r.example.org", "sharedGiB": cloud.shared_gib, "maxWorkers": 40, "spot": "fallback"}
    first, second = (
        {made.urn: made for made in run.resources}
        for run in (cloud.run(config, {"never-called": lambda _args: {}}) for _ in range(2))
    )
    assert first.keys() == second.keys()
    assert [urn for urn in first if first[urn] != second[urn]] == []


def test_cluster_can_be_destroyed_without_an_update_before(cloud: Cloud) -> None:
    assert cloud.run().one(cloud.cluster).inputs["deletionProtection"] is False


def test_every_resource_has_a_component_parent_and_the_stacks_provider(cloud: Cloud) -> None:
    done = cloud.team()
    components = {resource.urn for resource in done.resources if not resource.custom}
    wanted = {"gcp": "gke-team-google", "aws": "eks-team-aws", "kubernetes": f"{cloud.name}-team-kubernetes"}
    for resource in done.resources:
        if not resource.custom:
            continue
        assert resource.parent in components, resource.name
        assert not resource.protect, "an option that was meant for its parent"
        provider = wanted.get(resource.type.split(":")[0])
        assert provider is None or provider in resource.provider, f"{resource.name}: {resource.provider or 'default'}"


def test_physical_names_differ_between_two_stacks_of_one_name(cloud: Cloud) -> None:
    for resource in cloud.everything.resources:
        # The home's disk is found again after the state is gone, by a name made of organization, project and stack.
        if resource.type.startswith(("gcp:", "aws:")) and not resource.name.endswith("-home"):
            assert DRAWN in resource.inputs.get("name", DRAWN), f"{resource.name}: names with a drawn part differ"


def test_kubernetes_provider_has_a_cluster_identifier(cloud: Cloud) -> None:
    assert cloud.run().one("pulumi:providers:kubernetes").inputs["clusterIdentifier"].startswith(cloud.identifier)


def test_release_waits_for_storage_ingress_and_autoscaler(cloud: Cloud) -> None:
    done = cloud.everything
    release = own_release(done)
    needed = [
        *done.all("StorageClass"),
        *done.all("PersistentVolume"),
        *(entry for entry in done.all("v3:Release") if entry is not release),
        *done.all(cloud.pool),
        *done.all("eks/addon:Addon"),
    ]
    assert len(needed) >= 5
    for each in needed:
        assert done.goes_before(release, each), f"the release could go ahead without {each.name}, or outlive it"


def test_state_without_guard_and_dependents_keeps_every_cloud_resource(cloud: Cloud) -> None:
    done = cloud.everything
    guard = done.one("DestroyGuard")
    forgotten = [entry for entry in done.resources if entry is not guard and done.goes_before(entry, guard)]
    assert {entry.name for entry in forgotten} >= {entry.name for entry in done.all("v3:Release")}
    for entry in forgotten:
        assert not entry.type.startswith(("gcp:", "aws:")), f"{entry.name} would stay in the cloud, and be billed"


def test_permissions_outlive_nodes_and_control_plane(cloud: Cloud) -> None:
    done = cloud.team()
    rights = [entry for entry in done.resources if "-nodes-" in entry.name and "iam" in entry.type.lower()]
    assert len(rights) >= 2
    for pool in done.all(cloud.pool):
        for right in rights:
            assert done.goes_before(pool, right), f"{pool.name} would start without {right.name}"
    for right in done.all("RolePolicyAttachment", "-control-plane-"):
        assert done.goes_before(done.one(cloud.cluster), right), "the control plane could not take away what it made"


def test_changed_machine_type_or_spot_creates_the_new_pool_first(cloud: Cloud) -> None:
    keys = {"gke": ("nodeConfig.machineType", "nodeConfig.spot"), "eks": ("instanceTypes", "capacityType")}[cloud.name]
    for pool in cloud.team().all(cloud.pool):
        assert keys[0] in pool.replace_on_changes
        assert not pool.delete_before_replace
        assert cloud.drawn_name not in pool.inputs, "two pools of one name cannot stand side by side"
    assert keys[1] in cloud.team().one(cloud.pool, "workers").replace_on_changes


def test_pulumi_ignores_node_counts_that_the_autoscaler_owns(cloud: Cloud) -> None:
    ignored = {"gke": "nodeCount", "eks": "scalingConfig.desiredSize"}[cloud.name]
    for pool in cloud.run({"workers": 10, "maxWorkers": 40}).all(cloud.pool):
        assert ignored in pool.ignore_changes, pool.name


@pytest.mark.parametrize("maximum", [40, 80])
def test_more_workers_change_only_pool_and_worker_deployment(cloud: Cloud, maximum: int) -> None:
    before = cloud.run({"workers": 4, "maxWorkers": maximum if maximum > 40 else 4})
    after = cloud.run({"workers": 40, "maxWorkers": maximum})
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
    pool = after.one(cloud.pool, "workers")
    size = {"gke": "nodeCount", "eks": "scalingConfig"}[cloud.name]
    # Only the autoscaler adds nodes to a pool with a fixed maximum.
    pools = {} if maximum == 80 else {pool.name: {size}}
    changed = {name: keys - set(pool.ignore_changes) if name == pool.name else keys for name, keys in changed.items()}
    assert changed == {**pools, "future-team": {"values"}}
    values = [own_release(done).inputs["values"] for done in (before, after)]
    assert values[0]["scheduler"] == values[1]["scheduler"]
    assert values[0]["worker"]["resources"] == values[1]["worker"]["resources"]


def test_planned_workers_fit_on_a_node_beside_its_daemon_sets(cloud: Cloud) -> None:
    """By figures from the sources that sizing names, for four workers on 4 vCPUs and 16 GiB."""
    requests = own_release(cloud.run({"workers": 4})).inputs["values"]["worker"]["resources"]["requests"]
    cpu, memory = int(requests["cpu"].removesuffix("m")), int(requests["memory"].removesuffix("Mi"))
    kubelet = {"gke": 2.6 * 1024, "eks": 255 + 11 * 58}[cloud.name]
    daemons = {"gke": (600, 800), "eks": (300, 600)}[cloud.name]
    assert 4 * cpu <= 4000 - 80 - daemons[0]
    assert 4 * memory <= 16384 * 0.925 - kubelet - 100 - daemons[1]
    assert cpu > 700, "much is left unused"
    assert memory > 2500, "much is left unused"


def test_node_shell_command_names_a_node(cloud: Cloud, tmp_path: Path) -> None:
    """Pasted into a shell whose kubectl answers as that cloud's nodes are called."""
    answer, target = {
        "gke": ("node/gke-a\\nnode/gke-b", "compute ssh gke-a --project my-project --zone us-west1-a"),
        "eks": ("aws:///us-west-2a/i-0abc", "ssm start-session --region us-west-2 --target i-0abc"),
    }[cloud.name]
    for name, script in (("kubectl", f"printf '%b' '{answer}'"), ("gcloud", 'echo "$@"'), ("aws", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = cloud.run().outputs["nodeShell"][0]
    done = subprocess.run(
        ["bash", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(target), done.stdout


def test_kubeconfig_and_registry_password_are_secret_and_short_lived(cloud: Cloud) -> None:
    done = cloud.run()
    assert "kubeconfig" in done.one("pulumi:providers:kubernetes").secrets
    assert "kubeconfig" in done.one("DestroyGuard").secrets
    text, secret = done.outputs["kubeconfig"]
    assert secret
    user = json.loads(text)["users"][0]["user"]
    assert list(user) == ["exec"]
    assert [user["exec"]["command"], *user["exec"].get("args", [])][: len(cloud.plugin)] == cloud.plugin
    registries = done.one("docker-build:index:Image").sent["registries"]
    assert "short-lived-token" in json.dumps(plain(registries))
    assert is_secret(registries) or all(is_secret(entry) or is_secret(entry["password"]) for entry in registries)
    for resource in done.resources:
        if resource.type != "docker-build:index:Image":
            assert "short-lived-token" not in json.dumps(resource.sent), resource.name


def who_may_reach(done: Recording, cloud: Cloud) -> list[str] | None:
    inputs = done.one(cloud.cluster).inputs
    if cloud is EKS:
        cidrs: list[str] | None = inputs["vpcConfig"].get("publicAccessCidrs")
        return cidrs
    blocks = inputs.get("masterAuthorizedNetworksConfig")
    return [block["cidrBlock"] for block in blocks["cidrBlocks"]] if blocks else None


def test_only_stated_networks_reach_the_control_plane_by_address(cloud: Cloud) -> None:
    stated = cloud.run({"authorizedNetworks": "0.0.0.0/0"})
    assert stated.warnings == []
    assert who_may_reach(stated, cloud) == ["0.0.0.0/0"]
    assert who_may_reach(cloud.run({"authorizedNetworks": "203.0.113.0/24"}), cloud) == ["203.0.113.0/24"]


@pytest.mark.parametrize("given", ["", []])
def test_open_control_plane_on_eks_is_refused_unless_stated(given: object) -> None:
    message = aws_cloud.refused({"authorizedNetworks": given})
    assert "authorizedNetworks is not set" in message
    assert "or 0.0.0.0/0 for every address" in message
    assert 'pulumi config set authorizedNetworks "$(curl -4 -s https://ifconfig.me)/32"' in message


def test_only_routes_name_the_whole_internet(cloud: Cloud) -> None:
    for done in (cloud.team(), cloud.everything):
        for resource in done.resources:
            if not resource.type.endswith("RouteTable"):
                assert "0.0.0.0/0" not in json.dumps(resource.inputs), resource.name


def test_only_the_chosen_clouds_sdk_is_imported(cloud: Cloud) -> None:
    folder = {"eks": "aws", "gke": "google"}[cloud.name]
    script = (
        "import sys, shutil; shutil.which = lambda name: name\n"
        f"from tests.unit.{folder}_cloud import {cloud.name} as cloud\n"
        "from components.clouds.google import rest\n"
        "rest.fetch = lambda *_: {}\n"
        f"cloud({{'host': 'r.example.org', 'sharedGiB': {cloud.shared_gib}, 'maxWorkers': 40}})\n"
        "clouds = ('pulumi_aws', 'pulumi_gcp', 'components.clouds.aws.cluster', 'components.clouds.google.cluster')\n"
        "print(sorted(name for name in sys.modules if name in clouds))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == str([f"components.clouds.{folder}.cluster", cloud.sdk])


def test_silence_of_a_cloud_is_an_answer_only_in_messages() -> None:
    """Anywhere else the lookup says what is not checked, or stops the update."""
    found = set()
    for path in sorted((ROOT / "components").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
            if any("ask_or_none" in (getattr(call, "id", ""), getattr(call, "attr", "")) for call in calls):
                found.add(f"{path.parent.name}/{path.stem}.{function.name}")
    assert found == {
        "aws/free_plan.eligible_types",  # machine types to suggest
        "aws/preflight.size_workers",  # likewise
        "aws/preflight.others",
        "aws/given_network.check_way_out",  # most subnets have no route table of their own; that of the VPC says it
    }
